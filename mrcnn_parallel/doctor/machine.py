"""What is installed on this machine, read from the packages' metadata."""

import importlib.metadata
import os
import re
import sys
from dataclasses import dataclass, field

from mrcnn_parallel.doctor.api import PublicNames

# What to call a distribution -> names it is installed under
DISTRIBUTIONS = {
    "tensorflow": ("tensorflow", "tensorflow-cpu", "tensorflow-gpu", "tensorflow-macos"),
    "keras": ("keras",),
    "tf_keras": ("tf_keras",),
    "numpy": ("numpy",),
    "scikit-image": ("scikit-image",),
    "scipy": ("scipy",),
    "h5py": ("h5py",),
    "imgaug": ("imgaug",),
}
TARGETS = ("tf_keras", "keras3")


@dataclass(frozen=True)
class Machine:
    """Versions, and the Keras to run on.

    Attributes:
        versions: name, as in DISTRIBUTIONS or "python" -> version; no entry: not installed.
        target: "tf_keras" or "keras3", the Keras that the package is to run on.
        names: the public names of TensorFlow and Keras.
    """

    versions: dict
    target: str
    names: PublicNames = field(repr=False, hash=False, compare=False)

    @classmethod
    def here(cls, target=None):
        """This machine. Without a target, the one that its environment chooses."""
        versions = installed_versions()
        target = target or default_target(versions, os.environ.get("TF_USE_LEGACY_KERAS"))
        return cls(versions, target, PublicNames(target))

    def has(self, name, *least):
        """Whether `name` is installed, in version `least` (integers) or later."""
        return name in self.versions and release(self.versions[name]) >= least

    @property
    def keras(self):
        """The target's name for people: "tf_keras 2.21.0"."""
        name = "tf_keras" if self.target == "tf_keras" else "keras"
        title = "tf_keras" if self.target == "tf_keras" else "Keras"
        return f"{title} {self.versions.get(name, '(not installed)')}"

    def problems(self):
        """What is wrong with the machine itself: (what, change) pairs."""
        if "tensorflow" not in self.versions:
            yield (
                "TensorFlow is not installed, so its names can't be checked",
                ("python -m pip install tensorflow"),
            )
        if self.target == "tf_keras" and "tf_keras" not in self.versions:
            minor = ".".join(self.versions.get("tensorflow", "2.21").split(".")[:2])
            yield "tf_keras is not installed", f'python -m pip install "tf_keras=={minor}.*"'
        if self.target == "keras3" and not self.has("keras", 3):
            found = self.versions.get("keras")
            what = f"Keras {found} is older than 3" if found else "Keras is not installed"
            yield what, 'python -m pip install "keras>=3"'


def installed_versions():
    """Name -> version of what is installed of DISTRIBUTIONS, and of Python."""
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name, distributions in DISTRIBUTIONS.items():
        for distribution in distributions:
            try:
                versions[name] = importlib.metadata.version(distribution)
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    return versions


def default_target(versions, use_legacy_keras):
    """The Keras that TF_USE_LEGACY_KERAS asks for, or else tf_keras where it is installed.

    A Matterport-style package needs the fewest changes for tf_keras.
    """
    if use_legacy_keras is not None:
        return "tf_keras" if use_legacy_keras in ("1", "true", "True") else "keras3"
    return "tf_keras" if "tf_keras" in versions else "keras3"


def release(version):
    """(2, 21, 0) of "2.21.0rc1"."""
    numbers = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, numbers[0].split("."))) if numbers else ()
