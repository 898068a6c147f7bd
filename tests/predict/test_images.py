"""Images of every kind become the same pixels."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from stepseg.data.files import ImageFileError
from stepseg.predict.images import as_pixels

PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3
GREY = PIXELS[:, :, 0]


def test_files_arrays_tensors_and_pillow_images_agree(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    tensor = torch.from_numpy(PIXELS.copy()).permute(2, 0, 1)
    for image in (
        tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(PIXELS), PIXELS, tensor,
        tensor.float() / 255,
    ):  # fmt: skip
        assert (as_pixels(image) == PIXELS).all()
    for grey in (
        GREY,
        GREY[:, :, None],
        Image.fromarray(GREY),
        torch.from_numpy(GREY.copy())[None],
    ):
        assert (as_pixels(grey) == GREY[:, :, None]).all()
        assert as_pixels(grey).shape == (4, 6, 3)


def test_every_mode_of_a_file(tmp_path):
    def through(image, name="a.png", **options):
        image.save(tmp_path / name, **options)
        return as_pixels(tmp_path / name)

    colour = Image.fromarray(PIXELS)
    palette = colour.quantize(256)
    assert (through(palette) == np.asarray(palette.convert("RGB"))).all()
    opaque = Image.fromarray(np.dstack([PIXELS, np.full((4, 6), 255, np.uint8)]))
    assert (through(opaque) == PIXELS).all()
    clear = Image.fromarray(np.dstack([PIXELS, np.zeros((4, 6), np.uint8)]))
    assert (through(clear) == PIXELS).all()  # the colours beneath count
    assert (through(Image.fromarray(GREY).convert("LA")) == GREY[:, :, None]).all()
    wide = (GREY.astype(np.uint16) << 8) + 17
    assert (through(Image.fromarray(wide)) == GREY[:, :, None]).all()
    black = Image.fromarray(GREY > 100)
    assert (through(black) == np.where(GREY > 100, 255, 0)[:, :, None]).all()
    cmyk = Image.new("CMYK", (6, 4), (0, 255, 255, 0))  # no cyan, all magenta and yellow: red
    assert (through(cmyk, "a.tif") == [255, 0, 0]).all()
    with pytest.raises(ImageFileError, match=r"f\.tif: .*floating-point"):
        through(Image.fromarray(GREY.astype(np.float32)), "f.tif")


@pytest.mark.parametrize(("orientation", "turn"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_cameras_orientation_is_applied(tmp_path, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    assert (as_pixels(tmp_path / "a.png") == np.rot90(PIXELS, turn)).all()


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "text.jpg").write_text("I am no image")
    (tmp_path / "empty.png").touch()
    buffer = io.BytesIO()
    Image.fromarray(np.tile(PIXELS, (40, 40, 1))).save(buffer, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(buffer.getvalue()[:600])
    for name in ("text.jpg", "empty.png", "cut.jpg", "absent.png"):
        with pytest.raises(ImageFileError, match=name):
            as_pixels(tmp_path / name)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 6, 3)), "float64: convert it first"),
        (np.zeros((2, 4, 6, 3), np.uint8), r"\[2, 4, 6, 3\]; pass several images as a list"),
        (np.zeros((3, 4, 6), np.uint8), r"\[H, W, 3\]"),
        (np.zeros((0, 6, 3), np.uint8), r"\[0, 6, 3\]"),
        (torch.zeros(4, 6, 3), r"\[3, H, W\], this one \[4, 6, 3\]"),
        (torch.full((3, 4, 6), -1.0), "undo its normalisation"),
        (torch.full((3, 4, 6), float("nan")), "undo its normalisation"),
    ],
)
def test_what_is_no_image_is_refused(image, message):
    with pytest.raises(ValueError, match=message):
        as_pixels(image)
