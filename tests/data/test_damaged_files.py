"""Files as they arrive damaged: an array of the right form or a message that names the file."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from stepseg.data.files import ImageFileError, read_image, read_label, read_pixels

IDS = np.kron(np.arange(24).reshape(4, 6) % 11, np.ones((8, 8))).astype(np.uint8)
COLOURS = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)


def encoded(pixels, kind, **options):
    file = io.BytesIO()
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(file, kind, **options)
    return file.getvalue()


def palette():
    picture = Image.fromarray(IDS)
    picture.putpalette(list(range(256)) * 3)
    return picture


def turned():
    notes = Image.Exif()
    notes[0x0112], notes[0x010E] = 6, "a street"
    return notes


LABELS = {
    "grey.png": encoded(IDS, "PNG"),
    "palette.png": encoded(palette(), "PNG"),
    "wide.png": encoded(IDS.astype(np.uint16), "PNG"),
}
IMAGES = {
    "colour.png": encoded(COLOURS, "PNG"),
    "plain.jpg": encoded(COLOURS, "JPEG"),
    "progressive.jpg": encoded(COLOURS, "JPEG", progressive=True),
    "turned.jpg": encoded(COLOURS, "JPEG", exif=turned()),
    "moving.gif": encoded(IDS, "GIF", save_all=True, append_images=[Image.fromarray(IDS[::-1])]),
    "photo.webp": encoded(COLOURS, "WEBP"),
    "photo.avif": encoded(COLOURS, "AVIF"),
    "photo.jp2": encoded(COLOURS, "JPEG2000"),
    "plain.bmp": encoded(COLOURS, "BMP"),
    "plain.ppm": encoded(COLOURS, "PPM"),
    "plain.tif": encoded(COLOURS, "TIFF"),
    "packed.tif": encoded(COLOURS, "TIFF", compression="tiff_lzw"),
    "turned.tif": encoded(COLOURS, "TIFF", exif=turned()),
}


def damage(content: bytes, draw: random.Random) -> bytes:
    """Cut, flip, overwrite or repeat a few bytes somewhere."""
    data = bytearray(content)
    place = draw.randrange(len(data))
    match draw.randrange(4):
        case 0:
            del data[place:]
        case 1:
            for _ in range(draw.choice([1, 1, 8])):
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        case 2:
            data[place : place + 4] = draw.choice([b"\0\0\0\0", b"\xff\xff\xff\xff"])
        case 3:
            data[place:place] = data[place : place + 20]
    return bytes(data)


@pytest.mark.parametrize("name", [*LABELS, *IMAGES])
def test_damaged_images_are_pixels_or_named(name, tmp_path):
    draw, path = random.Random(name), tmp_path / name
    refused = 0
    for _ in range(60):
        path.write_bytes(damage((LABELS | IMAGES)[name], draw))
        for read in (read_image, read_pixels):
            try:
                pixels = read(path)
            except ImageFileError as error:
                assert str(path) in str(error)  # noqa: PT017
                refused += 1
                continue
            pixels = torch.as_tensor(pixels)
            assert pixels.dtype == torch.uint8
            assert pixels.ndim == 3
            assert 3 in (pixels.shape[0], pixels.shape[2])
    assert refused > 10


@pytest.mark.parametrize("name", LABELS)
def test_damaged_labels_are_refused_and_never_read_as_other_ids(name, tmp_path):
    """Every byte of a PNG is under a checksum, which decoding alone does not look at."""
    draw, path = random.Random(name), tmp_path / name
    path.write_bytes(LABELS[name])
    assert np.array_equal(read_label(path), IDS)
    refused = 0
    for _ in range(300):
        path.write_bytes(damage(LABELS[name], draw))
        try:
            ids = read_label(path)
        except ImageFileError as error:
            assert str(path) in str(error)  # noqa: PT017
            refused += 1
        else:
            assert np.array_equal(ids, IDS)
    assert refused > 200


def png(width, height, bits, colour, rows=b""):
    """A PNG from its header; `rows` are packed pixels with a filter byte before each row."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("read", [read_image, read_pixels, read_label])
@pytest.mark.parametrize(
    ("width", "height"), [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (0, 5), (5, 0)]
)
def test_impossible_sizes_allocate_nothing(read, width, height, tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(width, height, 8, 0))
    with pytest.raises(ImageFileError, match=r"bomb\.png: cannot read"):
        read(path)


def test_a_bomb_is_called_by_its_size(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(20_000, 20_000, 8, 0))
    with pytest.raises(ImageFileError, match=r"bomb\.png.*400000000 pixels"):
        read_image(path)


@pytest.mark.parametrize("bits", [2, 4])
def test_few_grey_bits_are_no_ids(bits, tmp_path):
    """Pillow stretches such pixels: id 1 would come out as 85 or 17, another class."""
    path = tmp_path / "few.png"
    path.write_bytes(png(4, 1, bits, 0, rows=b"\0\x12\x30"))
    with pytest.raises(ImageFileError, match=rf"few\.png.*{bits} bits.*Store labels with 8 bits"):
        read_label(path)
    assert read_image(path).shape == (3, 1, 4)


def test_few_palette_bits_are_ids(tmp_path):
    picture = Image.fromarray(np.array([[0, 1, 2, 3]], np.uint8))
    picture.putpalette([9, 9, 9, 8, 8, 8, 7, 7, 7, 6, 6, 6])
    picture.save(tmp_path / "few.png", bits=2)
    assert read_label(tmp_path / "few.png").tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("name", ["label.jpg", "label.png"])
def test_lossy_labels_are_refused_whatever_their_name(name, tmp_path):
    (tmp_path / name).write_bytes(encoded(IDS, "JPEG"))
    with pytest.raises(ImageFileError, match=rf"{name}: JPEG changes ids.*as PNG"):
        read_label(tmp_path / name)
    assert read_image(tmp_path / name).shape == (3, 32, 48)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF"])
def test_several_pictures_are_no_label(kind, tmp_path):
    path = tmp_path / "moving.png"
    path.write_bytes(encoded(IDS, kind, save_all=True, append_images=[Image.fromarray(IDS[::-1])]))
    with pytest.raises(ImageFileError, match=r"moving\.png.*one picture, this one several"):
        read_label(path)


def test_a_right_file_under_a_wrong_name_is_what_it_is(tmp_path):
    (tmp_path / "a.jpg").write_bytes(LABELS["grey.png"])
    assert np.array_equal(read_label(tmp_path / "a.jpg"), IDS)
