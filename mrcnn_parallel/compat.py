"""`import mrcnn` means this package: scripts written for Matterport's run unmodified.

    import mrcnn_parallel.compat          # first, in the script; or, without touching the script:
    python -m mrcnn_parallel run script.py args...

After that `from mrcnn import utils, visualize`, `import mrcnn.model as modellib` and
`from mrcnn.config import Config` give this package's own module objects: `mrcnn.model is
mrcnn_parallel.model`. It stays so when the script appends the root folder of a Matterport checkout
to `sys.path`, for the alias is asked before any path is searched. Keras is imported only when the
script asks for a module that needs it, so it can still choose KERAS_BACKEND. A script may import
imgaug before `mrcnn`: what imgaug 0.4.0 misses in current NumPys is put back from here on.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys

import mrcnn_parallel.data.augmentation  # noqa: F401 - for imgaug, see above

ALIAS = "mrcnn"
PACKAGE = "mrcnn_parallel"


class _AliasFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds and loads `mrcnn` and every `mrcnn.*` as the module of the same name in the package."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != ALIAS and not fullname.startswith(f"{ALIAS}."):
            return None
        real_name = _real_name(fullname)
        if importlib.util.find_spec(real_name) is None:
            # Returning None would send the search on to a checkout on sys.path.
            raise ModuleNotFoundError(
                f"No module named {fullname!r}: {ALIAS} is {PACKAGE} here, which has no such "
                "module.",
                name=fullname,
            )
        return importlib.machinery.ModuleSpec(fullname, self, is_package=fullname == ALIAS)

    def create_module(self, spec):
        return None  # a module of the usual kind, which exec_module replaces

    def exec_module(self, module):
        # The import system hands out what it finds in sys.modules after this. Creating the real
        # module here instead would let it overwrite the real one's __spec__ with the alias's.
        sys.modules[module.__name__] = importlib.import_module(_real_name(module.__name__))


def _real_name(fullname):
    return PACKAGE + fullname.removeprefix(ALIAS)


def install():
    """Makes `mrcnn` an alias of this package in this process. Doing so again changes nothing.

    Raises:
        ImportError: another package of that name has been imported already, so that part of the
            program would run on one and part on the other.
    """
    for name, module in list(sys.modules.items()):
        if name != ALIAS and not name.startswith(f"{ALIAS}."):
            continue
        if module is not sys.modules.get(_real_name(name)):
            raise ImportError(
                f"another package named {ALIAS} has been imported already "
                f"({getattr(module, '__file__', None) or name}): import {PACKAGE}.compat before "
                f"anything imports {ALIAS}.",
                name=name,
            )
    if not any(isinstance(finder, _AliasFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AliasFinder())
    sys.modules[ALIAS] = sys.modules[PACKAGE]


install()
