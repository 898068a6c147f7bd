"""Every image and label goes through one reader: upright, of known formats, at true values."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, TiffImagePlugin
from PIL.PngImagePlugin import PngImageFile

import stepseg
from stepseg.cli.data import main
from stepseg.data.dataset import SegmentationDataset
from stepseg.data.files import ImageFileError, LabelError, read_image, read_label
from stepseg.data.sets.folder import load_spec
from stepseg.predict.images import as_pixels
from stepseg.predict.inputs import find_files
from stepseg.predict.outputs import OutputFolder
from stepseg.predict.truth import TruthFolder
from stepseg.report.page.gallery import run_pictures

PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3
IDS = PIXELS[:, :, 0] % 3
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 3),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def note(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_nobody_else_opens_images():
    source = Path(stepseg.__file__).parent
    opening = {
        path.relative_to(source).as_posix(): re.findall(r"Image\.open\(.*", path.read_text())
        for path in source.rglob("*.py")
    }
    assert {k: v for k, v in opening.items() if v} == {
        "data/files.py": ["Image.open(path, formats=FORMATS) as image:"],
        # What it has just written itself.
        "data/corruption.py": ['Image.open(file, formats=["JPEG"]))).permute(2, 0, 1)'],
    }


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_images_are_upright_for_everyone(orientation, kind, tmp_path):
    path = tmp_path / "a"
    lossless = {"lossless": True} if kind == "WEBP" else {}
    Image.fromarray(PIXELS).save(path, kind, exif=note(orientation), **lossless)
    expected = UPRIGHT[orientation](PIXELS)
    with Image.open(path) as opened:
        for found in (
            as_pixels(path),
            read_image(path).permute(1, 2, 0).numpy(),
            as_pixels(opened),
        ):
            assert np.array_equal(found, expected)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_training_evaluation_and_prediction_see_the_same_pair(orientation, tmp_path, capsys):
    """A mask as an annotation tool draws it: on the picture that it shows."""
    for folder in ("images/val", "masks/val"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "classes.yaml").write_text("classes: [a, b, c]")
    image, mask = tmp_path / "images/val/x.png", tmp_path / "masks/val/x.png"
    Image.fromarray(PIXELS).save(image, exif=note(orientation))
    Image.fromarray(np.ascontiguousarray(UPRIGHT[orientation](IDS))).save(mask)
    sample = SegmentationDataset(load_spec(tmp_path), tmp_path, "val")[0]
    seen = as_pixels(image)
    assert np.array_equal(sample["image"].permute(1, 2, 0).numpy(), seen)
    (file,) = find_files(str(image.parent))
    truth = TruthFolder(mask.parent, "folder", 3).read(file, seen.shape[:2])
    assert np.array_equal(sample["label"].numpy(), truth)
    assert np.array_equal(seen[:, :, 0] % 3, truth)
    command = ["check", "folder", str(tmp_path), "--split", "val", "--out", str(tmp_path / "out")]
    assert main([*command, "--processes", "1"]) == 0
    turned = ["x"] if orientation > 1 else []
    assert json.loads((tmp_path / "out/check.json").read_text())["turned"] == turned
    assert ("turned by their cameras (EXIF): 1" in capsys.readouterr().out) == bool(turned)


def test_a_note_turns_a_label_as_it_does_an_image(tmp_path):
    Image.fromarray(IDS).save(tmp_path / "a.png", exif=note(6))
    assert np.array_equal(read_label(tmp_path / "a.png"), np.rot90(IDS, 3))


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("reader", ["image", "pixels", "label", "finished label", "gallery"])
def test_no_picture_starts_a_program(reader, tmp_path, monkeypatch):
    started = tmp_path / "started"
    for name in ("gs", "gswin64c"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {started}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    path = tmp_path / "labels" / "exits" / "a.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(EPS)
    read = {
        "image": lambda: read_image(path),
        "pixels": lambda: as_pixels(path),
        "label": lambda: read_label(path),
        "finished label": lambda: OutputFolder(tmp_path).labels("exits/a"),
        "gallery": lambda: run_pictures(tmp_path / "labels"),
    }[reader]
    if reader == "gallery":
        assert read() == []
    else:
        with pytest.raises(ImageFileError, match=r"a\.png: cannot read"):
            read()
    assert not started.exists()


@pytest.mark.parametrize("kind", ["DDS", "EPS", "ICO", "PCX", "PDF", "SGI", "TGA"])
def test_formats_that_are_no_photographs_are_refused(kind, tmp_path):
    Image.fromarray(PIXELS).resize((16, 16)).save(tmp_path / "a.png", kind)
    with pytest.raises(ImageFileError, match=r"a\.png: cannot read"):
        read_image(tmp_path / "a.png")


GREY = np.arange(24).reshape(4, 6)


def colours_of_16_bits(values):
    """A PNG of 16-bit RGB, which Pillow can read and not write."""
    import struct
    import zlib

    def chunk(kind, content):
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    rows = b"".join(b"\0" + np.repeat(row, 3).astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def written(values, kind, **options):
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind, **options)
    return file.getvalue()


WIDE = (GREY * 2800).astype(np.uint16)  # up to 64400
FEW = (GREY * 178).astype(np.uint16)  # up to 4094: twelve bits
DEEP = {
    "grey.png": lambda values: written(values, "PNG"),
    "colour.png": colours_of_16_bits,
    "grey.tif": lambda values: written(values, "TIFF"),
}


@pytest.mark.parametrize("name", DEEP)
def test_16_bits_are_right_or_refused(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(DEEP[name](WIDE))
    assert np.array_equal(as_pixels(path)[:, :, 0], WIDE >> 8)
    path.write_bytes(DEEP[name](FEW))
    with pytest.raises(ImageFileError, match=rf"{name}.*12 bits: scale them to 0\.\.65535"):
        read_image(path)


def test_pgm_of_16_bits_is_scaled(tmp_path):
    (tmp_path / "a.pgm").write_bytes(written(WIDE, "PPM"))
    assert np.array_equal(as_pixels(tmp_path / "a.pgm")[:, :, 0], WIDE >> 8)
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 4095 " + np.array([0, 4095], ">u2").tobytes())
    assert as_pixels(tmp_path / "a.pgm")[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_values_of_unknown_range_are_no_brightness(kind, tmp_path):
    Image.fromarray((GREY * 10).astype(kind)).save(tmp_path / "a.tif")
    with pytest.raises(ImageFileError, match=r"a\.tif.*convert the image to 8 or 16 bits"):
        read_image(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="convert the image"):
        as_pixels(Image.fromarray((GREY * 10).astype(kind)))


def inverted(path):
    """0 is white: Pillow turns 8-bit values over."""
    notes = TiffImagePlugin.ImageFileDirectory_v2()
    notes[262] = 0
    Image.fromarray(IDS).save(path, "TIFF", tiffinfo=notes)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda p: Image.fromarray(IDS).save(p, "TIFF", compression="jpeg"), "TIFF changes ids"),
        (lambda p: p.write_bytes(b"P5 2 1 11 \0\1"), "PPM changes ids"),
        (inverted, "inverted greyscale"),
    ],
)
def test_labels_whose_ids_would_change_are_refused(write, reason, tmp_path):
    write(tmp_path / "a.png")
    with pytest.raises(ImageFileError, match=rf"a\.png: {reason}"):
        read_label(tmp_path / "a.png")


def test_a_label_larger_than_its_image_takes_no_memory(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.new("1", (13_000, 9_000)).save(path)
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(PngImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(LabelError, match=r"a\.png is 13000x9000 pixels.*its image is 6x4"):
        read_label(path, (4, 6))


def mat(content, ids=IDS):
    """The bytes of a `.mat` file, with another array before S."""
    from scipy.io import savemat

    savemat(content, {"S": ids}, do_compression=True)


@pytest.mark.parametrize("lie", [False, True])
def test_a_small_mat_file_stays_small(lie, tmp_path):
    """100 kB that claim 100 MB, openly or behind the header of a small array."""
    path = tmp_path / "a.mat"
    mat(path, np.zeros((10_000, 10_000), np.uint8) if not lie else IDS)
    if lie:
        import struct
        import zlib

        content = path.read_bytes()
        array = bytearray(zlib.decompress(content[136:]))
        where = len(array) - 8 - 24  # the tag of the pixels
        tag = array.index(struct.pack("<II", 2, 24), where - 8)
        struct.pack_into("<II", array, tag, 2, 100_000_000)
        packed = zlib.compress(bytes(array) + bytes(100_000_000), 1)
        path.write_bytes(content[:128] + struct.pack("<II", 15, len(packed)) + packed)
    assert path.stat().st_size < 2_000_000
    with pytest.raises(ImageFileError, match=r"a\.mat.*more than 67108864 bytes"):
        read_label(path)


@pytest.mark.parametrize("ids", [IDS.astype(float), IDS[None], {"x": IDS}, "words"])
def test_mat_files_without_ids(ids, tmp_path):
    mat(tmp_path / "a.mat", ids)
    with pytest.raises(ImageFileError, match=r"a\.mat.*instead of whole ids \[H, W\]"):
        read_label(tmp_path / "a.mat")
