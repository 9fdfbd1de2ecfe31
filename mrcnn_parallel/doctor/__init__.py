"""The doctor: what stops a Matterport-style package on this machine's TensorFlow and Keras.

It reads source files and the files of installed packages, and imports or runs none of them.

    machine.py  what is installed, and which Keras the package is to run on
    api.py      the public names of installed packages
    source.py   a package's files: syntax trees, what imported names stand for
    changes.py  for names that are gone, what to write instead
    names.py    rules about names and imports
    calls.py    rules about how TensorFlow and Keras are used
    arrays.py   rules about NumPy, scikit-image, h5py and what else the data goes through
    command.py  the command line
"""

from mrcnn_parallel.doctor.machine import Machine
from mrcnn_parallel.doctor.source import Finding, Package

__all__ = ["Finding", "Machine", "Package", "examine"]


def examine(path, machine):
    """What would stop the package at `path`, or give wrong results.

    Args:
        path: a folder, read with all its sub-folders, or one Python file.
        machine: a Machine, such as `Machine.here()`.

    Returns:
        (package, findings): a Package, and a list of Finding, by file and line.

    Raises:
        FileNotFoundError: there is no Python file at `path`.
    """
    from mrcnn_parallel.doctor import arrays, calls, names

    package = Package.read(path)
    findings = [*package.unreadable]
    for module in package.modules:
        if module.is_our_parallel_model:  # it has a use for every Keras
            continue
        found = list(calls.own_parallel_model(module, package, machine))
        if not found or not module.path.endswith("parallel_model.py"):  # else it is to go
            for rule in (*names.RULES, *calls.RULES, *arrays.RULES):
                found += rule(module, package, machine)
        findings += found
    return package, sorted(set(findings))
