"""Speed of loading training images, beside Matterport's path, on one core; and of a fed GPU.

    python benchmarks/input_pipeline.py --json input_pipeline.json       # one core, all paths
    python benchmarks/input_pipeline.py --images 4 --image-size 128 --windows 1   # smoke run
    python benchmarks/input_pipeline.py --transport                      # threads and processes
    python benchmarks/input_pipeline.py --train --batch 16 --workers 16 --minutes 5   # on a GPU

Pictures of 640 x 480 are made here and loaded for a network of 1024 x 1024, from the JPEG to the
batch that training takes. All contenders run in this process with one thread each, by turns. What
counts is the processor's time, which other programs disturb less than the clock's, of the median
window. With --train the training step of train_step.py runs first on a batch that
stays in the device's memory, then fed by the loader, and the memory of all processes is watched.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "jax")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import pipeline_data


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--instances", type=int, nargs="+", default=[7, 20], help="polygons in each picture")
    add("--images", type=int, default=32, help="pictures")
    add("--peer-images", type=int, default=3, help="of these in a window of Matterport's path")
    add("--size", type=int, nargs=2, default=[640, 480], help="width and height of the pictures")
    add("--image-size", type=int, default=1024, help="side of the network's input")
    add("--windows", type=int, default=5, help="timed windows a contender")
    add("--transport", action="store_true", help="threads and processes instead")
    add("--train", action="store_true", help="a training run fed by the loader instead")
    add("--workers", type=int, nargs="+", default=[2], help="--train takes the first number")
    add("--processes", choices=["auto", "yes", "no"], default="auto", help="with --train")
    add("--augmentation", choices=["none", "default"], default="default")
    add("--minutes", type=float, default=5.0, help="length of the fed run")
    add("--batch", type=int, default=8, help="images per GPU, or per batch of --transport")
    add("--gpus", type=int, default=1)
    add("--backbone", default="resnet50")
    add("--steps", type=int, default=20, help="training steps in a window")
    add("--dtype", default="auto", help="Keras dtype policy")
    add("--json", help="file to write the figures to")
    return parser.parse_args(argv)


def make_config(arguments, batch):
    from mrcnn_parallel.config import Config

    return Config(
        NAME="input",
        NUM_CLASSES=1 + pipeline_data.CLASSES,
        IMAGES_PER_GPU=batch,
        IMAGE_MIN_DIM=min(800, arguments.image_size),
        IMAGE_MAX_DIM=arguments.image_size,
        ON_BAD_SAMPLE="raise",
    )


def augmentation_of(arguments):
    return None if arguments.augmentation == "none" else "default"


class OurPath:
    """The package's loader without threads: the time of one core."""

    def __init__(self, dataset, config, augmentation):
        from mrcnn_parallel.data.loader import TrainingLoader

        self.loader = TrainingLoader(dataset, config, augmentation=augmentation, seed=0, workers=0)
        self.batches = -(-len(dataset.image_ids) // config.BATCH_SIZE)
        self.next = 0

    def window(self):
        """Processor's seconds an image."""
        started = time.process_time()
        for _ in range(self.batches):
            self.loader[self.next]
            self.next += 1
        return (time.process_time() - started) / (self.batches * self.loader.batch_size)


class PeerPath:
    """Matterport's path on some of the pictures."""

    def __init__(self, dataset, config, anchors, augment, images):
        self.path = pipeline_data.MatterportPath(dataset, config, anchors)
        self.augment, self.images, self.next = augment, images, 0

    def window(self):
        """Processor's seconds an image."""
        started = time.process_time()
        for _ in range(self.images):
            self.path.load(self.next % len(self.path.dataset.image_ids), self.augment)
            self.next += 1
        return (time.process_time() - started) / self.images


def compare_paths(arguments, folder):
    """Rows of the table: every path, with and without augmentation."""
    import cv2

    from mrcnn_parallel.ops.anchors import image_anchors_px

    cv2.setNumThreads(1)
    config = make_config(arguments, min(8, arguments.images))
    anchors = image_anchors_px(config, config.IMAGE_SHAPE)
    paths, mean_bytes = pipeline_data.write_pictures(folder, arguments.images, *arguments.size)
    contenders = {}
    for count in arguments.instances:
        dataset = pipeline_data.Pictures(paths, *arguments.size, count)
        masks = pipeline_data.MaskPictures(paths, *arguments.size, count)
        for augmentation in (None, "default"):
            key = count, augmentation is not None
            contenders[("polygons", *key)] = OurPath(dataset, config, augmentation)
            contenders[("load_mask", *key)] = OurPath(masks, config, augmentation)
            contenders[("Matterport's path", *key)] = PeerPath(
                dataset, config, anchors, augmentation is not None, arguments.peer_images
            )
    windows = {key: [] for key in contenders}
    for contender in contenders.values():
        contender.window()  # warm: file cache, lazy imports
    for _ in range(arguments.windows):
        for key, contender in contenders.items():
            windows[key].append(contender.window())
    rows = []
    for (name, count, augmented), seconds in windows.items():
        peer = statistics.median(windows["Matterport's path", count, augmented])
        rows.append(
            {
                "path": name,
                "instances": count,
                "augmented": augmented,
                "ms": 1000 * statistics.median(seconds),
                "best_ms": 1000 * min(seconds),
                "images_per_second_per_core": 1 / statistics.median(seconds),
                "ratio": peer / statistics.median(seconds),
                "best_ratio": min(windows["Matterport's path", count, augmented]) / min(seconds),
            }
        )
    width, height = arguments.size
    print(
        f"\n{width} x {height} JPEGs of {mean_bytes / 1000:.0f} kB to {arguments.image_size} x "
        f"{arguments.image_size}, one core"
    )
    print(
        f"{'path':20}{'instances':>10}{'augmented':>11}{'ms':>9}{'best':>9}{'img/s':>9}"
        f"{'x':>8}{'best x':>8}"
    )
    for row in rows:
        print(
            f"{row['path']:20}{row['instances']:10}{'yes' if row['augmented'] else 'no':>11}"
            f"{row['ms']:9.2f}{row['best_ms']:9.2f}{row['images_per_second_per_core']:9.1f}"
            f"{row['ratio']:8.1f}{row['best_ratio']:8.1f}"
        )
    return rows


def compare_transports(arguments, folder):
    """Rows: images a second from threads and from processes."""
    import cv2

    from mrcnn_parallel.data.loader import TrainingLoader

    cv2.setNumThreads(1)
    config = make_config(arguments, arguments.batch)
    paths, _ = pipeline_data.write_pictures(folder, arguments.images, *arguments.size)
    dataset = pipeline_data.Pictures(paths, *arguments.size, arguments.instances[0])
    rows, batches = [], -(-arguments.images // arguments.batch)
    for workers in arguments.workers:
        for name in ("threads", "processes"):
            config.LOADER_PROCESSES = name == "processes"
            loader = TrainingLoader(
                dataset, config, augmentation=augmentation_of(arguments), seed=0, workers=workers
            )
            for index in range(3):
                loader[index]
            rates = []
            for window in range(arguments.windows):
                started = time.perf_counter()
                for index in range(batches):
                    loader[3 + window * batches + index]
                rates.append(batches * arguments.batch / (time.perf_counter() - started))
            loader.close()
            rows.append({"transport": name, "workers": workers, "images_per_second": rates})
            print(f"{name:10}{workers:4} workers {statistics.median(rates):8.1f} images/s")
    return rows


class Watch:
    """Notes the rate of each epoch of `fit` and the process's memory, and ends it in time.

    Attributes:
        rates: images a second of each epoch. seconds: in all.
        memory_mib: after each epoch, of this process and of those that it started.
    """

    def __init__(self, images_an_epoch, limit_seconds):
        self.images, self.limit = images_an_epoch, limit_seconds
        self.rates, self.memory_mib, self.seconds = [], [], 0.0

    def callback(self):
        import keras

        started = last = time.perf_counter()

        def on_epoch_end(epoch, logs):
            nonlocal last
            now = time.perf_counter()
            if epoch or self.limit == 0:  # the first one waits for the first batches
                self.rates.append(self.images / (now - last))
                self.memory_mib.append(_memory_mib())
            self.seconds = now - started
            callback.model.stop_training = bool(self.rates) and self.seconds >= self.limit
            last = time.perf_counter()  # reading the memory took a moment, in which nothing trained

        callback = keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end)
        return callback


def _memory_mib():
    """RAM of this process, and of all that descend from it (Linux).

    Shared pages are counted once. Pages of files are left out: they are the system's cache, and
    how many count here depends on who else has the same libraries open.
    """
    parents = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            parents[int(file.parent.name)] = int(file.read_text().rpartition(")")[2].split()[1])
    family = {os.getpid()}
    while found := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= found
    mib = {}
    for pid in family:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            kib = [int(x.split()[1]) for x in lines if x.startswith(("Pss_Anon:", "Pss_Shmem:"))]
            mib[pid] = sum(kib) / 1024
    return mib.pop(os.getpid(), 0.0), sum(mib.values())


def train_fed(arguments, folder):
    """A training step's rate in memory and fed, and the process's memory over time."""
    from benchmarks import timing, train_step
    from mrcnn_parallel import backend
    from mrcnn_parallel.data.loader import TrainingLoader, original_errors

    backend.expose_cpu_devices_without_gpu(arguments.gpus)
    arguments.classes, arguments.objects = 1 + pipeline_data.CLASSES, arguments.instances[0]
    paths, _ = pipeline_data.write_pictures(folder, arguments.images, *arguments.size)
    dataset = pipeline_data.Pictures(paths, *arguments.size, arguments.instances[0])
    step = train_step.OurStep(arguments, arguments.batch, arguments.gpus)
    in_memory = [_rate(step, arguments.steps) for _ in range(arguments.windows)]
    step.config.LOADER_PROCESSES = {"auto": "auto", "yes": True, "no": False}[arguments.processes]
    loader = TrainingLoader(
        dataset,
        step.config,
        augmentation=augmentation_of(arguments),
        seed=0,
        workers=arguments.workers[0],
        place=backend.batch_placer(step.model.keras_model),
    )
    watch = Watch(step.images * arguments.steps, 60 * arguments.minutes)
    with original_errors(loader):
        step.model._training_model.fit(
            loader,
            steps_per_epoch=arguments.steps,
            epochs=10**6,
            shuffle=False,
            verbose=0,
            callbacks=[watch.callback()],
        )
    in_memory += [_rate(step, arguments.steps) for _ in range(arguments.windows)]
    fed, memory = statistics.median(watch.rates), watch.memory_mib
    quarter = max(1, len(memory) // 4)
    own, others = zip(*memory, strict=True)
    row = {
        "device": timing.device_name(),
        "workers": arguments.workers[0],
        "loader": "processes" if loader.uses_processes else "threads",
        "batch": step.images,
        "in_memory_images_per_second": statistics.median(in_memory),
        "fed_images_per_second": fed,
        "fed_share": fed / statistics.median(in_memory),
        "seconds": watch.seconds,
        "memory_mib": memory,
    }
    print(
        f"{row['device']}, batch {step.images}, {row['workers']} {row['loader']}: in memory "
        f"{row['in_memory_images_per_second']:.1f} images/s, fed {fed:.1f} ({row['fed_share']:.1%})"
        f" over {watch.seconds:.0f} s"
    )
    for name, values in (("of this process", own), ("of its children", others)):
        first, last = statistics.mean(values[:quarter]), statistics.mean(values[-quarter:])
        print(f"memory {name}: {first:.0f} MiB in the first quarter, {last:.0f} MiB in the last")
    return [row]


def _rate(step, steps):
    started = time.perf_counter()
    step.run(steps)
    return step.images * steps / (time.perf_counter() - started)


def main(argv=None):
    arguments = parse_arguments(argv)
    run = compare_paths
    if arguments.transport or arguments.train:
        run = train_fed if arguments.train else compare_transports
    with tempfile.TemporaryDirectory() as folder:
        rows = run(arguments, folder)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1))
    return rows


if __name__ == "__main__":
    main()
