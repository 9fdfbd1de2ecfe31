"""Speed of detection, beside torchvision's where that is installed, in one run.

    python benchmarks/detect.py                                       # batches of 1 and 8
    python benchmarks/detect.py --image-size 128 --batch 2 --backbone resnet18   # CPU smoke run

Two rows a batch size. `program`: from uint8 images in host memory to boxes, classes, scores and
28 x 28 masks in host memory. `detect`: MaskRCNN.detect, whose masks have the images' size. The
weights are random, with the last layer's bias such that every image has DETECTION_MAX_INSTANCES
objects, so that nobody is fast for having found nothing. torchvision gets the same images, puts its
masks into the images on the GPU, and copies boxes and masks to the host.
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

LIKELY_CLASSES = 3  # those that every region seems to be


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--image-size", type=int, default=1024)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--classes", type=int, default=81)
    parser.add_argument("--dtype", default="auto", help="Keras dtype policy")
    parser.add_argument("--windows", type=int, default=5, help="timed windows a contender")
    parser.add_argument("--steps", type=int, default=10, help="batches in a window")
    parser.add_argument("--no-torchvision", action="store_true")
    parser.add_argument(
        "--torchvision-layouts", nargs="+", default=timing.LAYOUTS, choices=timing.LAYOUTS
    )
    parser.add_argument("--json", help="file to write the figures to")
    return parser.parse_args(argv)


class OurDetection:
    """The compiled program alone, or MaskRCNN.detect."""

    gpus = 1

    def __init__(self, arguments, batch, images, whole):
        import keras

        from mrcnn_parallel.config import Config
        from mrcnn_parallel.model import MaskRCNN

        keras.utils.set_random_seed(0)
        config = Config(
            NAME="benchmark",
            BACKBONE=arguments.backbone,
            NUM_CLASSES=arguments.classes,
            IMAGES_PER_GPU=batch,
            IMAGE_MIN_DIM=arguments.image_size,
            IMAGE_MAX_DIM=arguments.image_size,
            DETECTION_MIN_CONFIDENCE=0.05,
            DTYPE_POLICY=arguments.dtype,
        )
        self.batch = self.images = batch
        self.stacked, self.pictures = images[:batch], list(images[:batch])
        started = time.perf_counter()
        self.model = MaskRCNN("inference", config, "logs")
        layer = self.model.keras_model.get_layer("mrcnn_class_logits")
        bias = np.zeros(arguments.classes, np.float32)
        bias[1 : 1 + LIKELY_CLASSES] = 4
        layer.bias.assign(bias)
        self.build_seconds = time.perf_counter() - started
        started = time.perf_counter()
        self.found = [len(result["rois"]) for result in self.model.detect(self.pictures)]
        self.first_seconds = time.perf_counter() - started
        policy = self.model.keras_model.get_layer("res2a_branch2a").dtype_policy.name
        self.name = f"mrcnn_parallel {'detect' if whole else 'program'} {policy}"
        self.version = f"keras {keras.__version__}, {timing.backend_version()}"
        self.whole = whole
        self.metas = self.model.mold_inputs(self.pictures)[1]
        self.run(2)
        self.peak = timing.peak_memory_gib()

    def run(self, steps):
        if self.whole:  # in one call, as somebody with many images would
            self.model.detect(self.pictures * steps)
            return
        waiting = None
        for _ in range(steps):
            outputs = self.model._detector.run(self.stacked, self.metas)
            if waiting is not None:
                [np.asarray(x) for x in waiting]
            waiting = outputs
        [np.asarray(x) for x in waiting]

    def peak_gib(self):
        return self.peak


class TorchvisionDetection:
    """torchvision's maskrcnn_resnet50_fpn under AMP bfloat16."""

    gpus = 1

    def __init__(self, arguments, batch, images, layout):
        import torch
        import torchvision

        self.torch = torch
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.backends.cudnn.benchmark = True
        size = arguments.image_size
        started = time.perf_counter()
        net = torchvision.models.detection.maskrcnn_resnet50_fpn(
            weights=None,
            weights_backbone=None,
            num_classes=arguments.classes,
            min_size=size,
            max_size=size,
            box_score_thresh=0.05,
        )
        with torch.no_grad():
            net.roi_heads.box_predictor.cls_score.bias[1 : 1 + LIKELY_CLASSES] += 4
        self.net = net.to(self.device).eval()
        if layout == "channels_last":
            self.net = self.net.to(memory_format=torch.channels_last)
        self.build_seconds = time.perf_counter() - started
        self.batch = self.images = batch
        self.pictures = [torch.from_numpy(image).permute(2, 0, 1) for image in images[:batch]]
        self.name = f"torchvision AMP bf16 {layout}"
        self.version = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        self.found = [len(result["boxes"]) for result in self._detect()]
        self.first_seconds = time.perf_counter() - started
        self.run(2)

    def _detect(self):
        torch = self.torch
        with torch.inference_mode(), torch.autocast(self.device, dtype=torch.bfloat16):
            pictures = [x.to(self.device, non_blocking=True).float() / 255 for x in self.pictures]
            results = self.net(pictures)
        return [
            {k: (v > 0.5 if k == "masks" else v).cpu() for k, v in result.items()}
            for result in results
        ]

    def run(self, steps):
        for _ in range(steps):
            self._detect()

    def peak_gib(self):
        torch = self.torch
        return torch.cuda.max_memory_allocated() / 2**30 if self.device == "cuda" else None


def main(argv=None):
    arguments = parse_arguments(argv)
    logging.basicConfig(level=logging.WARNING)
    rng = np.random.default_rng(0)
    shape = (max(arguments.batch), arguments.image_size, arguments.image_size, 3)
    images = rng.integers(0, 255, shape, dtype=np.uint8)
    contenders = [
        OurDetection(arguments, batch, images, whole)
        for batch in arguments.batch
        for whole in (False, True)
    ]
    if not arguments.no_torchvision and timing.has_torchvision():
        contenders += [
            TorchvisionDetection(arguments, batch, images, layout)
            for batch in arguments.batch
            for layout in arguments.torchvision_layouts
        ]
    rows = timing.compare(contenders, arguments.windows, arguments.steps)
    for row, contender in zip(rows, contenders, strict=True):
        row["objects_found"] = sum(contender.found) / len(contender.found)
    title = f"Detection, {arguments.image_size} px, {arguments.backbone}"
    timing.print_table(title, rows)
    print("objects found an image:", ", ".join(f"{row['objects_found']:.0f}" for row in rows))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
