"""Training: the step, checkpoints, callbacks and the metrics that tell whether it worked."""
