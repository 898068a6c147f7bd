"""The names that `stepseg.checkpoint` hands on."""

import pytest

import stepseg.checkpoint
from stepseg.checkpoint import checkpoint


def test_the_package_has_the_names_of_its_main_module():
    assert stepseg.checkpoint.__all__ == checkpoint.__all__
    for name in checkpoint.__all__:
        assert getattr(stepseg.checkpoint, name) is getattr(checkpoint, name)
    with pytest.raises(AttributeError, match="has no attribute 'read_chekpoint'"):
        stepseg.checkpoint.read_chekpoint  # noqa: B018
