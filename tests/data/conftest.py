"""Small data sets in their official layouts, made by the tests themselves."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIZE = (48, 64)  # height, width

Builder = Callable[[Path], Path]


def write_image(path: Path, seed: int, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_label(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids).save(path)


def stripes(ids: tuple[int, ...], size: tuple[int, int] = SIZE) -> np.ndarray:
    """Vertical stripes of equal width, one per id."""
    columns = np.arange(size[1]) * len(ids) // size[1]
    return np.broadcast_to(np.array(ids, dtype=np.uint8)[columns], size).copy()


def make_ade20k(root: Path) -> Path:
    for folder, count in (("training", 5), ("validation", 3)):
        for i in range(count):
            name = f"ADE_{folder[:5]}_{i:08d}"
            write_image(root / f"ADEChallengeData2016/images/{folder}/{name}.jpg", i)
            ids = stripes((0, 1, 150, 7))
            write_label(root / f"ADEChallengeData2016/annotations/{folder}/{name}.png", ids)
    return root


def make_cityscapes(root: Path) -> Path:
    for split, cities in (("train", ("aachen", "ulm")), ("val", ("lindau",))):
        for city in cities:
            for i in range(3):
                name = f"{city}_{i:06d}_000019"
                write_image(root / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png", i)
                ids = stripes((7, 23, 3, 33))
                write_label(root / f"gtFine/{split}/{city}/{name}_gtFine_labelIds.png", ids)
    return root


def make_cocostuff10k(root: Path) -> Path:
    from scipy.io import savemat

    (root / "imageLists").mkdir(parents=True)
    (root / "annotations").mkdir()
    for split, count in (("train", 5), ("test", 3)):
        names = [f"COCO_train2014_{split}{i:012d}" for i in range(count)]
        (root / f"imageLists/{split}.txt").write_text("\n".join(names) + "\n")
        for i, name in enumerate(names):
            write_image(root / f"images/{name}.jpg", i)
            savemat(root / f"annotations/{name}.mat", {"S": stripes((0, 1, 13, 182))})
    return root


def make_camvid(root: Path) -> Path:
    for split, count in (("train", 5), ("val", 3)):
        for i in range(count):
            write_image(root / f"images/{split}/{i:04d}.jpg", i)
            write_label(root / f"annotations/{split}/{i:04d}.png", stripes((0, 10, 11)))
    return root


def make_folder(root: Path) -> Path:
    for split, count in (("train", 5), ("val", 3), ("test", 2)):
        for i in range(count):
            write_image(root / f"images/{split}/{i}.png", i)
            write_label(root / f"masks/{split}/{i}.png", stripes((0, 1, 255)))
    (root / "classes.yaml").write_text("classes: [road, sky]\n")
    return root


@pytest.fixture(scope="session")
def builders() -> dict[str, Builder]:
    """One function per data set that writes a small copy into a folder."""
    return {
        "ade20k": make_ade20k,
        "cityscapes": make_cityscapes,
        "cocostuff10k": make_cocostuff10k,
        "camvid": make_camvid,
        "folder": make_folder,
    }


@pytest.fixture(scope="session")
def roots(builders, tmp_path_factory) -> dict[str, Path]:
    """All small data sets, written once; tests that change files use `builders`."""
    return {name: build(tmp_path_factory.mktemp(name)) for name, build in builders.items()}


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real samples that cannot be distributed; the folder is given by the environment."""
    folder = os.environ.get("STEPSEG_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("STEPSEG_TEST_DATA is not set to a folder of real samples")
    return Path(folder)
