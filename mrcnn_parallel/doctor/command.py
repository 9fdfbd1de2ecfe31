"""`python -m mrcnn_parallel doctor PATH`: prints what `examine` finds."""

import argparse
import dataclasses
import json
import sys
from collections import Counter
from pathlib import Path

from mrcnn_parallel.doctor import Machine, examine
from mrcnn_parallel.doctor.machine import TARGETS
from mrcnn_parallel.doctor.source import SEVERITIES

_DESCRIPTION = """\
Says what stops a Matterport-style package on this machine's TensorFlow, Keras, NumPy,
scikit-image and h5py. It reads the files, and runs or imports nothing of them.

Each finding is a line `file:line: severity: what is wrong`, and below it the change.
The severities:

  stops          an error, when that line runs
  wrong result   no error, but not what the line meant
  deprecated     works, for now
"""
_EPILOG = """\
Two ways onto a current TensorFlow:

  --keras tf_keras   the package stays on Keras 2: fewest changes. Import tensorflow.keras
                     everywhere, install tf_keras, and run with TF_USE_LEGACY_KERAS=1
  --keras keras3     the package moves to Keras 3

Without --keras it is the one that TF_USE_LEGACY_KERAS asks for, or else tf_keras if it is
installed. To leave the package's code behind, see `python -m mrcnn_parallel run --help`.

Exit status: 1 if something stops the package, 0 if nothing does, 2 if there is nothing to read.

  python -m mrcnn_parallel doctor Mask_RCNN/mrcnn
  python -m mrcnn_parallel doctor --keras keras3 Mask_RCNN/mrcnn/model.py
  python -m mrcnn_parallel doctor --json Mask_RCNN | python -m json.tool
"""


def add_doctor(commands):
    """`doctor`: what stops a package that is still on Matterport's code."""
    parser = commands.add_parser(
        "doctor",
        help="say what stops a Matterport-style package on this machine",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", metavar="PATH", help="the package's folder, or one of its files")
    parser.add_argument("--keras", choices=TARGETS, help="the Keras that it is to run on")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object, for other programs"
    )
    parser.set_defaults(run=_run)


def _run(options):
    machine = Machine.here(options.keras)
    try:
        package, findings = examine(options.path, machine)
    except FileNotFoundError as error:
        print(f"mrcnn_parallel doctor: {error}", file=sys.stderr)
        return 2
    problems = list(machine.problems())
    if options.json:
        report = {
            "path": options.path,
            "files": package.files,
            "target": machine.target,
            "versions": machine.versions,
            "machine": [{"what": what, "change": change} for what, change in problems],
            "findings": [dataclasses.asdict(finding) for finding in findings],
        }
        print(json.dumps(report, indent=2))
    else:
        print("\n".join(_lines(options.path, package, machine, problems, findings)))
    return int(bool(problems) or any(finding.severity == "stops" for finding in findings))


def _lines(path, package, machine, problems, findings):
    others = {k: v for k, v in machine.versions.items() if k not in ("keras", "tf_keras")}
    yield f"{path}: {_count(package.files, 'file')}, to run on {machine.keras}"
    yield "with " + ", ".join(f"{name} {version}" for name, version in others.items())
    if package.graph_mode:
        module, call = package.graph_mode
        yield f"in graph mode: {module.path}:{call.lineno} disables eager execution"
    yield ""
    for what, change in problems:
        yield f"this machine: stops: {what}"
        yield f"    change: {change}"
    for finding in findings:
        yield f"{finding.path}:{finding.line}: {finding.severity}: {finding.what}"
        yield f"    change: {finding.change}"
    if findings or problems:
        yield ""
    count = Counter(finding.severity for finding in findings)
    count["stops"] += len(problems)
    files = len({finding.path for finding in findings})
    summary = ", ".join(f"{severity}: {count[severity]}" for severity in SEVERITIES)
    yield f"{summary}; in {files} of {_count(package.files, 'file')}"
    if machine.target == "tf_keras":
        yield "Run it with TF_USE_LEGACY_KERAS=1 in the environment."
    if any(Path(module.path).name == "parallel_model.py" for module in package.modules):
        yield "How to use our parallel_model.py in it: docs/parallel_model_alone.md"


def _count(number, noun):
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
