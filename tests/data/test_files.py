import numpy as np
import pytest
import torch
from PIL import Image

from stepseg.data.files import ImageFileError, read_image, read_label


def save(path, pixels, mode=None):
    Image.fromarray(pixels, mode).save(path) if mode else Image.fromarray(pixels).save(path)
    return path


def test_rgb_image(tmp_path):
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    image = read_image(save(tmp_path / "a.png", pixels))
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert image.tolist() == pixels.transpose(2, 0, 1).tolist()


def test_grey_image_becomes_rgb(tmp_path):
    image = read_image(save(tmp_path / "a.png", np.array([[0, 200]], dtype=np.uint8)))
    assert image.tolist() == [[[0, 200]]] * 3


def test_alpha_is_dropped(tmp_path):
    pixels = np.array([[[10, 20, 30, 0]]], dtype=np.uint8)
    assert read_image(save(tmp_path / "a.png", pixels)).flatten().tolist() == [10, 20, 30]


def test_16_bit_grey_image_is_scaled_not_clipped(tmp_path):
    pixels = np.array([[0, 256, 65535]], dtype=np.uint16)
    assert read_image(save(tmp_path / "a.png", pixels))[0].tolist() == [[0, 1, 255]]


def test_palette_label_gives_the_index(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 5]], dtype=np.uint8))
    image.putpalette([9, 9, 9] * 256)
    assert image.mode == "P"
    image.save(tmp_path / "a.png")
    assert read_label(tmp_path / "a.png").tolist() == [[0, 1, 5]]


def test_16_bit_label(tmp_path):
    path = save(tmp_path / "a.png", np.array([[0, 300]], dtype=np.uint16))
    assert read_label(path).tolist() == [[0, 300]]


def test_one_bit_label_has_the_ids_0_and_1(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "a.png")
    assert read_label(tmp_path / "a.png").tolist() == [[1, 0]]


def test_colour_label_is_refused(tmp_path):
    path = save(tmp_path / "a.png", np.zeros((2, 2, 3), dtype=np.uint8))
    with pytest.raises(ImageFileError, match=r"a\.png.*Convert the colours to ids"):
        read_label(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_truncated_file_is_named(tmp_path, suffix):
    whole = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / f"broken{suffix}", whole)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageFileError, match=f"broken{suffix}"):
        read_image(path)


def test_file_that_is_no_image(tmp_path):
    (tmp_path / "a.png").write_text("not an image")
    for read in (read_image, read_label):
        with pytest.raises(ImageFileError, match=r"a\.png"):
            read(tmp_path / "a.png")
    with pytest.raises(ImageFileError, match=r"missing\.png"):
        read_image(tmp_path / "missing.png")


def test_mat_labels(tmp_path):
    from scipy.io import savemat

    savemat(tmp_path / "a.mat", {"S": np.array([[0, 182]], dtype=np.uint16)})
    assert read_label(tmp_path / "a.mat").tolist() == [[0, 182]]
    savemat(tmp_path / "b.mat", {"T": np.zeros((1, 1))})
    with pytest.raises(ImageFileError, match=r"b\.mat.*no field 'S'"):
        read_label(tmp_path / "b.mat")
    savemat(tmp_path / "c.mat", {"S": np.array([[0.5]])})
    with pytest.raises(ImageFileError, match=r"c\.mat.*double"):
        read_label(tmp_path / "c.mat")
    (tmp_path / "d.mat").write_bytes(b"MATLAB 5.0 MAT-file" + b"\0" * 200)
    with pytest.raises(ImageFileError, match=r"d\.mat"):
        read_label(tmp_path / "d.mat")
