"""The command line: `python -m mrcnn_parallel COMMAND ...`.

    python -m mrcnn_parallel run script.py args...    a script written for Matterport's `mrcnn`
    python -m mrcnn_parallel run --cpu-devices 2 script.py    with GPU_COUNT = 2, but no GPU
    python -m mrcnn_parallel inspect DATASET                  what is wrong with a dataset
    python -m mrcnn_parallel convert FORMAT PATH OUT.json     a dataset as COCO JSON
    python -m mrcnn_parallel doctor Mask_RCNN/mrcnn           what stops a package on this machine

A command is a function `add_<command>(commands)` that adds its parser and sets `run` to what it
does with the parsed arguments and returns as exit status; list it in COMMANDS. Nothing here imports
Keras unless asked for devices: a script must still be able to choose its backend.
"""

import argparse
import runpy
import sys
from pathlib import Path

from mrcnn_parallel.data.commands import add_convert, add_inspect
from mrcnn_parallel.doctor.command import add_doctor


def add_run(commands):
    """`run`: a script written for Matterport's package, unmodified, on this one."""
    parser = commands.add_parser(
        "run",
        help="run a script written for Matterport's Mask R-CNN",
        description="Runs a Python script in which `import mrcnn` means this package.",
        usage="%(prog)s [-h] [--cpu-devices COUNT] script.py [argument ...]",
    )
    parser.add_argument(
        "--cpu-devices",
        type=int,
        metavar="COUNT",
        help="let the CPU count as COUNT devices, so that a script with GPU_COUNT = COUNT runs on "
        "a machine without GPUs; the backend is then chosen by the environment, not by the script",
    )
    parser.add_argument("script", metavar="script.py")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="passed on to the script")
    parser.set_defaults(run=_run)


def _run(options):
    if options.cpu_devices is not None:
        if options.cpu_devices < 1:
            print("mrcnn_parallel run: --cpu-devices must be at least 1", file=sys.stderr)
            return 2
        from mrcnn_parallel import backend

        backend.expose_cpu_devices(options.cpu_devices)
    return run_script(options.script, options.arguments)


COMMANDS = (add_run, add_inspect, add_convert, add_doctor)


def run_script(script, arguments):
    """Runs a script as `python script.py arguments...` would, with `mrcnn` aliased to this package.

    `sys.argv` and the first entry of `sys.path` are the script's while it runs.

    Returns:
        exit status 0; 2 where there is no such script. What the script raises goes through,
        SystemExit included.
    """
    path = Path(script)
    if not path.is_file():
        print(f"mrcnn_parallel run: there is no script {script}", file=sys.stderr)
        return 2
    from mrcnn_parallel import compat

    compat.install()
    argv, search_path = sys.argv, list(sys.path)
    sys.argv = [str(script), *arguments]
    # The first entry is the current folder or, for an installed command, that command's.
    sys.path[: 0 if sys.flags.safe_path else 1] = [str(path.resolve().parent)]
    try:
        runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.argv, sys.path[:] = argv, search_path
    return 0


def main(arguments=None):
    """Parses the command line (`sys.argv` by default) and runs the command.

    Returns:
        the exit status.
    """
    parser = argparse.ArgumentParser(prog="mrcnn_parallel", description="Mask R-CNN for Keras 3.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    options = parser.parse_args(arguments)
    return options.run(options)
