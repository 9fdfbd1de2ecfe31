"""Runs everything that must pass: style, then the whole suite once for each backend.

python -m tests                          # all
python -m tests -m "not slow"            # arguments go to pytest
python -m tests --backend jax tests/ops  # one backend, some tests
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--backend", choices=["tensorflow", "jax"], action="append", help="both by default"
    )
    parser.add_argument("--processes", type=int, default=2, help="pytest processes side by side")
    options, arguments = parser.parse_known_args()

    failed = []
    for command in (["check"], ["format", "--check"]):
        print(f"== ruff {' '.join(command)}", flush=True)
        if subprocess.run([sys.executable, "-m", "ruff", *command, "."], cwd=ROOT).returncode:
            failed.append(f"ruff {command[0]}")
    for backend in options.backend or ["tensorflow", "jax"]:
        print(f"== pytest on {backend}", flush=True)
        pytest = [sys.executable, "-m", "pytest", "-q", "--durations=8"]
        if options.processes > 1:
            # A file stays in one process, so that its models are built once.
            pytest += ["-n", str(options.processes), "--dist", "loadfile"]
        environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONHASHSEED": "0"}
        if subprocess.run([*pytest, *arguments], cwd=ROOT, env=environment).returncode:
            failed.append(f"tests on {backend}")
    print("== " + (f"failed: {', '.join(failed)}" if failed else "all passed"), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
