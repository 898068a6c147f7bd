"""The names that `stepseg.checkpoint` hands on."""

import subprocess
import sys

import pytest

import stepseg.checkpoint
from stepseg.checkpoint import checkpoint


def test_the_package_has_the_names_of_its_main_module():
    assert stepseg.checkpoint.__all__ == checkpoint.__all__
    for name in checkpoint.__all__:
        assert getattr(stepseg.checkpoint, name) is getattr(checkpoint, name)
    with pytest.raises(AttributeError, match="has no attribute 'read_chekpoint'"):
        stepseg.checkpoint.read_chekpoint  # noqa: B018


@pytest.mark.parametrize("first", ["fit", "safetensors_file", "checkpoint"])
def test_every_module_can_be_the_first_import(first):
    """A checkpoint makes models, and models are made with modules of this package."""
    code = f"import stepseg.checkpoint.{first}; from stepseg.build import build_segmenter"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
