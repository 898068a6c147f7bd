import numpy as np
import pytest
import torch
from PIL import Image

from stepseg.profile.images import load_images


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "city").mkdir()
    halves = np.zeros((20, 60, 3), np.uint8)  # wide: black, white, black
    halves[:, 20:40] = 255
    Image.fromarray(halves).save(tmp_path / "city" / "b.png")
    Image.fromarray(np.full((50, 30), 128, np.uint8)).save(tmp_path / "grey.JPG")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._grey.jpg").write_text("no image: what macOS leaves beside one")
    (tmp_path / "folder.png").mkdir()
    return tmp_path


def test_files_cover_the_size_and_are_cropped_in_the_middle(folder):
    images = load_images(folder, (40, 40), count=8)
    assert images.shape == (2, 3, 40, 40)
    assert images.dtype == torch.float32
    assert images[0, :, :, 5:35].min() > 0.95  # the white third of the wide one
    torch.testing.assert_close(images[1], torch.full((3, 40, 40), 128 / 255), atol=0.01, rtol=0)
    assert len(load_images(folder, (40, 40), count=1)) == 1


def test_generated_scenes_differ_and_repeat():
    images = load_images(None, (64, 96), count=2)
    assert images.shape == (2, 3, 64, 96)
    assert 0 <= images.min() < images.max() <= 1
    assert not torch.equal(images[0], images[1])
    assert torch.equal(images, load_images(None, (64, 96), count=2))
    assert load_images(None, (32, 48), count=1).shape == (1, 3, 32, 48)


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        load_images(tmp_path / "absent", (64, 64), 1)
    with pytest.raises(ValueError, match="holds no image"):
        load_images(tmp_path, (64, 64), 1)
