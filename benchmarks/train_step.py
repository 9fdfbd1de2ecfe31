"""Speed of a training step, beside torchvision's where that is installed, in one run.

    python benchmarks/train_step.py                                   # this backend, all peers
    python benchmarks/train_step.py --batch 8 16 --gpus 1 2 --breakdown
    python benchmarks/train_step.py --image-size 128 --batch 2 --backbone resnet18   # CPU smoke run

The step is the one that `MaskRCNN.train` runs: forward, the five losses, L2, backward, clipping,
SGD with momentum. Batches lie in the devices' memory. The contenders take turns, a window of steps
each, and the median window counts. Afterwards all GPUs must have the same weights, to the bit. A
JSON file of the same figures is written with --json.
"""

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leaves room for the peer
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks import timing
from mrcnn_parallel import backend


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[8], help="images per GPU")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1], help="numbers of replicas")
    parser.add_argument("--image-size", type=int, default=1024)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--classes", type=int, default=81)
    parser.add_argument("--objects", type=int, default=7, help="objects in each image")
    parser.add_argument("--dtype", default="auto", help="Keras dtype policy")
    parser.add_argument("--windows", type=int, default=5, help="timed windows a contender")
    parser.add_argument("--steps", type=int, default=20, help="steps in a window")
    parser.add_argument("--breakdown", action="store_true", help="also time parts of the step")
    parser.add_argument("--no-torchvision", action="store_true")
    parser.add_argument(
        "--torchvision-layouts", nargs="+", default=timing.LAYOUTS, choices=timing.LAYOUTS
    )
    parser.add_argument("--torchvision-steps", type=int, help="steps in its windows, if others")
    parser.add_argument("--json", help="file to write the figures to")
    return parser.parse_args(argv)


def made_up_batch(config, count, objects, rng):
    """A batch in the form of the training loader's: noise images, boxes 2 to 35 % of a side."""
    size, instances = int(config.IMAGE_SHAPE[0]), config.MAX_GT_INSTANCES
    corners = rng.random((count, objects, 2)) * 0.6 * size
    sides = (rng.random((count, objects, 2)) * 0.35 + 0.02) * size
    boxes = np.zeros((count, instances, 4), np.float32)
    boxes[:, :objects] = np.concatenate([corners, np.minimum(corners + sides, size - 1)], -1)
    class_ids = np.zeros((count, instances), np.int32)
    class_ids[:, :objects] = rng.integers(1, config.NUM_CLASSES, (count, objects))
    meta = np.zeros((count, config.IMAGE_META_SIZE), np.float32)
    meta[:, 1:12] = [size, size, 3, size, size, 3, 0, 0, size, size, 1]
    meta[:, 12:] = 1
    images = rng.integers(0, 255, (count, size, size, 3), dtype=np.uint8)
    masks = rng.random((count, *config.MINI_MASK_SHAPE, instances)) > 0.3
    return images, meta, class_ids, boxes, masks


class OurStep:
    """This package's training step on in-memory batches."""

    def __init__(self, arguments, batch, gpus):
        import keras

        from mrcnn_parallel.config import Config
        from mrcnn_parallel.model import MaskRCNN

        keras.utils.set_random_seed(0)
        self.config = Config(
            NAME="benchmark",
            BACKBONE=arguments.backbone,
            NUM_CLASSES=arguments.classes,
            GPU_COUNT=gpus,
            IMAGES_PER_GPU=batch,
            IMAGE_MIN_DIM=arguments.image_size,
            IMAGE_MAX_DIM=arguments.image_size,
            DTYPE_POLICY=arguments.dtype,
        )
        self.batch, self.gpus, self.images = batch, gpus, batch * gpus
        started = time.perf_counter()
        self.model = MaskRCNN("training", self.config, "logs")
        self.model.compile(learning_rate=1e-4, momentum=0.9)
        self.build_seconds = time.perf_counter() - started
        data = made_up_batch(self.config, self.images, arguments.objects, np.random.default_rng(0))
        self.loader = timing.SameBatch(self.model.keras_model, data)
        started = time.perf_counter()
        self.run(1)
        self.first_seconds = time.perf_counter() - started
        self.run(2)
        policy = self.model.keras_model.get_layer("res2a_branch2a").dtype_policy.name
        self.name = f"mrcnn_parallel {keras.backend.backend()} {policy}"
        self.version = f"keras {keras.__version__}, {timing.backend_version()}"
        self.peak = timing.peak_memory_gib()  # of all models so far, this one being the largest yet

    def run(self, steps):
        training = self.model._training_model
        history = training.fit(self.loader, steps_per_epoch=steps, shuffle=False, verbose=0)
        return history.history["loss"][-1]

    def peak_gib(self):
        return self.peak


class TorchvisionStep:
    """torchvision's maskrcnn_resnet50_fpn, AMP bfloat16, SGD; see --help."""

    def __init__(self, arguments, batch, layout):
        import torch
        import torchvision

        self.torch, self.batch, self.gpus, self.images = torch, batch, 1, batch
        self.steps = arguments.torchvision_steps or arguments.steps
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
        device = "cuda" if torch.cuda.is_available() else "cpu"
        size = arguments.image_size
        self.net = torchvision.models.detection.maskrcnn_resnet50_fpn(
            weights=None,
            weights_backbone=None,
            num_classes=arguments.classes,
            min_size=size,
            max_size=size,
            trainable_backbone_layers=5,
        ).to(device)
        if layout == "channels_last":
            self.net = self.net.to(memory_format=torch.channels_last)
        trainable = [p for p in self.net.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trainable, lr=1e-4, momentum=0.9)
        self.device = device
        generator = torch.Generator().manual_seed(0)
        self.data = [self._made_up(arguments, size, generator) for _ in range(batch)]
        self.name = f"torchvision AMP bf16 {layout}"
        self.version = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
        self.build_seconds = 0.0
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        self.run(1)
        self.first_seconds = time.perf_counter() - started
        self.run(4)

    def _made_up(self, arguments, size, generator):
        torch = self.torch
        corners = torch.rand(arguments.objects, 2, generator=generator) * size * 0.6
        sides = (torch.rand(arguments.objects, 2, generator=generator) * 0.35 + 0.02) * size
        boxes = torch.cat([corners, (corners + sides).clamp(max=size - 1)], 1)
        masks = torch.zeros(arguments.objects, size, size, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = 1
        labels = torch.randint(1, arguments.classes, (arguments.objects,), generator=generator)
        target = {"boxes": boxes, "labels": labels, "masks": masks}
        image = torch.rand(3, size, size, generator=generator)
        return image.to(self.device), {k: v.to(self.device) for k, v in target.items()}

    def run(self, steps):
        torch = self.torch
        images, targets = [image for image, _ in self.data], [target for _, target in self.data]
        for _ in range(steps):
            self.optimizer.zero_grad(set_to_none=True)
            with torch.autocast(self.device, dtype=torch.bfloat16):
                loss = sum(self.net(images, targets).values())
            loss.backward()
            self.optimizer.step()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return float(loss.detach())

    def peak_gib(self):
        return self.torch.cuda.max_memory_allocated() / 2**30 if self.device == "cuda" else None


def main(argv=None):
    arguments = parse_arguments(argv)
    logging.basicConfig(level=logging.WARNING)
    backend.expose_cpu_devices_without_gpu(max(arguments.gpus))
    ours = [OurStep(arguments, batch, gpus) for gpus in arguments.gpus for batch in arguments.batch]
    contenders = [*ours]
    if not arguments.no_torchvision and 1 in arguments.gpus and timing.has_torchvision():
        for batch in arguments.batch:
            for layout in arguments.torchvision_layouts:
                contenders.append(TorchvisionStep(arguments, batch, layout))

    rows = timing.compare(contenders, arguments.windows, arguments.steps)
    for step in ours:
        if step.gpus > 1:
            step.model.keras_model.check_replicas()
    title = f"Training step, {arguments.image_size} px, {arguments.backbone}"
    timing.print_table(title, rows)
    if arguments.breakdown:
        most = max(ours, key=lambda step: step.gpus)
        rows.append({"breakdown": breakdown(ours[0], rows[0]["ms"], most)})
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1))


def breakdown(step, step_ms, most):
    """Prints and returns what growing parts of one step take, forward and backward, in ms.

    Args:
        step: an OurStep. step_ms: what all of it takes.
        most: the OurStep on most GPUs, for the all-reduce.
    """
    parts = timing.time_cuts(inner_model(step), CUTS, step.loader.batch, step.gpus)
    parts["+ L2, clipping, optimizer, loop"] = step_ms
    print(f"\nGrowing parts of one step at batch {step.batch}, forward and backward:")
    before = 0.0
    for name, milliseconds in parts.items():
        print(f"{name:44}{milliseconds:9.1f} ms{milliseconds - before:+9.1f}")
        before = milliseconds
    if most.gpus > 1:
        parts["all-reduce alone"] = timing.time_all_reduce(most.model.keras_model)
        label = f"all-reduce on {most.gpus} GPUs, alone"
        print(f"{label:44}{parts['all-reduce alone']:9.1f} ms")
    return parts


def inner_model(step):
    return getattr(step.model.keras_model, "inner_model", step.model.keras_model)


PYRAMID = ["fpn_p2", "fpn_p3", "fpn_p4", "fpn_p5"]
RPN = ["rpn_class_loss", "rpn_bbox_loss"]
BOX = ["mrcnn_class_loss", "mrcnn_bbox_loss"]
# Growing parts of the network, by patterns of the layers whose outputs they end with: those with a
# backward pass and, after them, those without.
CUTS = {
    "backbone": (["res5[a-c]_out"], []),
    "+ FPN": (PYRAMID, []),
    "+ RPN, forward": (PYRAMID, ["rpn_class", "rpn_bbox"]),
    "+ proposals": (PYRAMID, ["ROI"]),
    "+ detection targets": (PYRAMID, ["proposal_targets"]),
    "+ RPN targets": (PYRAMID, ["proposal_targets", "rpn_sampled_anchors"]),
    "+ ROIAlign and sampled anchors": (["sampled_features"], ["rpn_sampled_anchors"]),
    "+ RPN losses": (["roi_align_classifier", "roi_align_mask", *RPN], []),
    "+ box head": (["roi_align_mask", *RPN, *BOX], []),
    "+ mask head": ([*RPN, *BOX, "mrcnn_mask_loss"], []),
}


if __name__ == "__main__":
    main()
