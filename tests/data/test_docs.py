"""What docs/data.md tells people to write is tried here."""

import re
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from stepseg.data import sets
from stepseg.data.check import check_split
from stepseg.data.sets.folder import load_spec
from stepseg.data.specs import available, get_spec
from stepseg.lit.datamodule import SegmentationDataModule

DOCS = Path(__file__).parents[2] / "docs" / "data.md"


def blocks(section: str, language: str) -> list[str]:
    text = DOCS.read_text(encoding="utf-8").split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_a_new_data_set_is_one_module_and_one_config(tmp_path, monkeypatch):
    (module,), (config,) = (
        blocks("Adding a data set", "python"),
        blocks("Adding a data set", "yaml"),
    )
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets/pond.py").write_text(module)
    monkeypatch.setattr(sets, "__path__", [*sets.__path__, str(tmp_path / "sets")])
    assert "pond" in available()
    root = tmp_path / "data"
    for split in ("train", "val"):
        for folder, pixels in (
            ("pictures", np.zeros((40, 50, 3), dtype=np.uint8)),
            ("labels", np.tile(np.array([0, 1, 2, 1, 2], dtype=np.uint8), (40, 10))),
        ):
            (root / folder / split).mkdir(parents=True)
            Image.fromarray(pixels).save(root / folder / split / "a.png")
    values = yaml.safe_load(config)
    assert values.pop("_target_") == "stepseg.lit.datamodule.SegmentationDataModule"
    values |= {"root": root, "seed": 0, "num_workers": 0, "crop_size": [32, 32]}
    values["evaluation"]["crop"] = values["crop_size"]
    datamodule = SegmentationDataModule(**values)
    (batch,) = islice(datamodule.train_dataloader(), 1)
    assert batch["image"].shape == (4, 3, 32, 32)
    assert next(iter(datamodule.val_dataloader()))["label"].unique().tolist() == [0, 1, 255]
    assert check_split(get_spec("pond"), root, "train").problems == []


@pytest.mark.parametrize("number", [0, 1])
def test_descriptions_of_own_images_are_valid(number, tmp_path):
    (tmp_path / "classes.yaml").write_text(blocks("Your own images", "yaml")[number])
    spec = load_spec(tmp_path)
    assert spec.classes[-1] == "weed"
    if number == 1:
        assert spec.label_map.table[[3, 9, 0, 255]].tolist() == [0, 1, 255, 255]


def test_every_data_set_is_in_the_table():
    text = DOCS.read_text(encoding="utf-8")
    for name in available():
        assert f"| `{name}` |" in text


def test_classes_of_the_scenes_are_listed_in_order():
    text = DOCS.read_text(encoding="utf-8").split("## Generated scenes", 1)[1]
    listed = re.findall(r"^\| (\d) \| (\w+) \|", text, flags=re.MULTILINE)
    assert listed == [(str(i), name) for i, name in enumerate(get_spec("synthetic").classes)]
