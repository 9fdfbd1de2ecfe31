from setuptools import setup; setup()  # noqa: E702 metadata is in pyproject.toml
