"""Where a training run keeps its files, and how its epoch is told from their names.

{model_dir}/{name}{yyyymmddThhmm}/mask_rcnn_{name}_{epoch:04d}.h5
"""

import datetime
import re
from pathlib import Path

RUN_PATTERN = re.compile(
    r".*[/\\][\w-]+(\d{4})(\d{2})(\d{2})T(\d{2})(\d{2})[/\\]mask_rcnn_[\w-]+(\d{4})\.h5"
)


def parse_checkpoint(path):
    """Start time and epoch of a checkpoint, from its path alone.

    Returns:
        (datetime, int), or None where the path has another form.
    """
    match = RUN_PATTERN.match(str(path))
    if not match:
        return None
    year, month, day, hour, minute, epoch = map(int, match.groups())
    return datetime.datetime(year, month, day, hour, minute), epoch


def run_dir(model_dir, name, started):
    """Folder of a run that started at that datetime."""
    return Path(model_dir) / f"{name.lower()}{started:%Y%m%dT%H%M}"


def checkpoint_path(folder, name, epoch):
    """File of the weights after `epoch` epochs."""
    return Path(folder) / f"mask_rcnn_{name.lower()}_{epoch:04d}.h5"


def find_last(model_dir, name):
    """The last checkpoint of the last run of that name.

    Raises:
        FileNotFoundError: saying what is missing where.
    """
    model_dir = Path(model_dir)
    key = name.lower()
    folders = []
    if model_dir.is_dir():
        folders = sorted(p for p in model_dir.iterdir() if p.is_dir() and p.name.startswith(key))
    if not folders:
        raise FileNotFoundError(
            f"there is no run of {name!r} in {model_dir}: no folder there begins with {key!r}."
        )
    files = sorted(folders[-1].glob("mask_rcnn*.h5"))
    if not files:
        raise FileNotFoundError(
            f"there is no checkpoint (mask_rcnn*.h5) in {folders[-1]}, the last run of {name!r}."
        )
    return str(files[-1])
