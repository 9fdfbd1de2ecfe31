"""What the doctor's tests share: machines that are not this one, and packages of one file.

In a snippet `#!` marks the lines that must be found, and no other line may be.
"""

import textwrap

from mrcnn_parallel.doctor import Machine, examine
from mrcnn_parallel.doctor.api import PublicNames

VERSIONS = {
    "python": "3.11.7",
    "tensorflow": "2.21.0",
    "keras": "3.15.1",
    "tf_keras": "2.21.0",
    "numpy": "2.4.6",
    "scikit-image": "0.26.0",
    "scipy": "1.17.1",
    "h5py": "3.14.0",
    "imgaug": "0.4.0",
}
BOTH = ("tf_keras", "keras3")
GRAPH = "import tensorflow as tf\ntf.compat.v1.disable_eager_execution()\n"


def machine(target="tf_keras", **versions):
    """Underscores in names of versions stand for hyphens; None: not installed."""
    names = {name.replace("scikit_image", "scikit-image"): v for name, v in versions.items()}
    versions = {name: v for name, v in {**VERSIONS, **names}.items() if v is not None}
    return Machine(versions, target, PublicNames(target))


def look(folder, code, where, name="model.py"):
    """The findings in a file of this code."""
    file = folder / name
    file.write_text(textwrap.dedent(code))
    return examine(file, where)[1]


def check(tmp_path, code, where, rule, severity, change):
    code = textwrap.dedent(code)
    marked = [n for n, line in enumerate(code.splitlines(), start=1) if line.endswith("#!")]
    findings = look(tmp_path, code, where)
    assert sorted({f.line for f in findings}) == marked, findings
    assert marked
    for finding in findings:
        assert (finding.rule, finding.severity) == (rule, severity)
        assert finding.what
    assert any(change in finding.change for finding in findings), findings
