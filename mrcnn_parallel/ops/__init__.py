"""Pure functions on tensors, with static shapes: boxes, anchors, NMS, ROI sampling, choosing."""
