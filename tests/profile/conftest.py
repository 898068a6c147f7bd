"""The scripts in `benchmarks/` as modules."""

import importlib.util
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="session")
def script():
    """Import a script by its name."""
    loaded = []

    def load(name):
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
            sys.modules[name] = importlib.util.module_from_spec(spec)
            loaded.append(name)
            spec.loader.exec_module(sys.modules[name])
        return sys.modules[name]

    yield load
    for name in loaded:
        del sys.modules[name]
