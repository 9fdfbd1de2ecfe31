"""inspect_dataset: every image checked in threads, and the report as text and as JSON."""

import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from mrcnn_parallel.data.checks.images import check_image

SMALL, LARGE = 32**2, 96**2  # pixels: COCO's bounds of small, medium and large


@dataclass
class Report:
    """What inspect_dataset found.

    problems: list of Problem, those of reading first. class_names: without the background.
    instances, images_with: class name -> count; crowds count too.
    areas: class name -> list of pixels. sizes: list of (height, width) of the images that could be
    read. per_image: list of how many instances each image has.
    """

    num_images: int
    problems: list
    class_names: list
    instances: Counter = field(default_factory=Counter)
    images_with: Counter = field(default_factory=Counter)
    areas: dict = field(default_factory=dict)
    sizes: list = field(default_factory=list)
    per_image: list = field(default_factory=list)
    crowds: int = 0

    def kinds(self):
        """{kind of problem: count}, the most frequent first."""
        return dict(Counter(problem.kind for problem in self.problems).most_common())


def inspect_dataset(dataset, threads=None, progress=False, ignore=()):
    """Decodes every image and looks at every instance of a dataset.

    Args:
        dataset: a prepared Dataset; what a RecordDataset left out while reading is reported too.
        threads: how many decode; None: one per core, 16 at most.
        progress: whether to show a progress bar, where the output is a terminal.
        ignore: kinds of problems not to report.

    Returns:
        Report.
    """
    threads = threads or min(16, os.cpu_count() or 1)
    report = Report(
        num_images=len(dataset.image_ids),
        problems=list(getattr(dataset, "problems", ())),
        class_names=list(dataset.class_names[1:]),
    )
    pool = ThreadPoolExecutor(threads)
    try:
        checks = pool.map(lambda number: check_image(dataset, number), dataset.image_ids)
        for found in _with_bar(checks, report.num_images, progress):
            _add(report, found, dataset.class_names)
    finally:  # Ctrl-C must not wait for the images that are still to come
        pool.shutdown(cancel_futures=True)
    report.problems = [problem for problem in report.problems if problem.kind not in set(ignore)]
    return report


def _with_bar(checks, count, progress):
    if not progress:
        return checks
    from tqdm import tqdm

    return tqdm(checks, total=count, desc="Inspecting", unit=" images", disable=None)


def _add(report, found, class_names):
    report.problems += found.problems
    if found.size is not None:
        report.sizes.append(found.size)
    report.per_image.append(len(found.class_ids))
    report.crowds += int(np.sum(np.asarray(found.class_ids) < 0))
    names = [class_names[abs(int(number))] for number in found.class_ids]
    report.instances.update(names)
    report.images_with.update(set(names))
    for name, area in zip(names, found.areas, strict=True):
        report.areas.setdefault(name, []).append(float(area))


def to_text(report, title, shown=5):
    """The report as lines of text.

    Args:
        title: what was inspected. shown: how many problems of each kind are named.
    """
    total = sum(report.instances.values())
    lines = [
        title,
        f"  {report.num_images} images, {total} instances"
        + (f" ({report.crowds} crowds)" if report.crowds else "")
        + f", {len(report.class_names)} classes",
    ]
    if report.sizes:
        sides = np.array(report.sizes)
        low, high = sides.min(axis=0), sides.max(axis=0)
        lines.append(f"  images {low[1]} to {high[1]} pixels wide, {low[0]} to {high[0]} high")
    empty = report.per_image.count(0)
    lines.append(f"  {empty} images without instances; most in one: {max(report.per_image)}")
    lines += [
        "",
        f"  {'class':<24}{'instances':>10}{'images':>8}{'small':>8}{'medium':>8}{'large':>8}",
    ]
    for name in report.class_names:
        areas = np.array(report.areas.get(name, ()))
        counts = [(areas < SMALL).sum(), ((areas >= SMALL) & (areas < LARGE)).sum()]
        counts.append((areas >= LARGE).sum())
        columns = "".join(f"{count:>8}" for count in (report.images_with[name], *counts))
        lines.append(f"  {name:<24}{report.instances[name]:>10}{columns}")
    lines.append("")
    if not report.problems:
        lines.append("No problems.")
    for kind, count in report.kinds().items():
        lines.append(f"{kind}: {count}")
        named = [problem for problem in report.problems if problem.kind == kind]
        for problem in named[:shown]:
            record = f", {problem.record}" if problem.record else ""
            lines.append(f"  {problem.file}{record}: {problem.reason}")
        if count > shown:
            lines.append(f"  ... and {count - shown} more, see report.json")
    return "\n".join(lines)


def to_dict(report):
    """The report for JSON, with every problem."""
    areas = {name: np.array(values) for name, values in report.areas.items()}
    return {
        "images": report.num_images,
        "instances": sum(report.instances.values()),
        "crowds": report.crowds,
        "images_without_instances": report.per_image.count(0),
        "classes": [
            {
                "name": name,
                "instances": report.instances[name],
                "images": report.images_with[name],
                "median_area_px": float(np.median(areas[name])) if name in areas else None,
            }
            for name in report.class_names
        ],
        "problem_counts": report.kinds(),
        "problems": [problem._asdict() for problem in report.problems],
    }


def write_report(report, folder, text):
    """Writes report.txt and report.json into a folder that exists."""
    (folder / "report.txt").write_text(text + "\n", encoding="utf-8")
    content = json.dumps(to_dict(report), indent=1, allow_nan=False)
    (folder / "report.json").write_text(content + "\n", encoding="utf-8")
