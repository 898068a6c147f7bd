"""Where checkpoints are found."""

import pytest

from stepseg.weights.place import find_checkpoint


def test_a_folder_of_a_run_means_its_best_checkpoint(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in ("model.safetensors", "last.ckpt"):
        (tmp_path / "checkpoints" / name).touch()
    assert find_checkpoint(tmp_path).name == "model.safetensors"
    (tmp_path / "checkpoints" / "best.ckpt").touch()
    assert find_checkpoint(tmp_path) == tmp_path / "checkpoints" / "best.ckpt"
    assert find_checkpoint(tmp_path / "checkpoints").name == "best.ckpt"
    with pytest.raises(ValueError, match="holds no checkpoint: none of checkpoints/"):
        find_checkpoint(tmp_path.parent)
    with pytest.raises(ValueError, match="does not exist"):
        find_checkpoint(tmp_path / "worst.ckpt")
