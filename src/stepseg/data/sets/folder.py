"""Your own data: a folder with images, masks and a `classes.yaml` that describes them.

The file's keys, all but `classes` optional:

    classes: [road, sky]                # training ids follow this order
    name: lakes                         # in tables and cards; default: the folder's name
    colours: [[128, 64, 128], [70, 130, 180]]
    ignore_index: 255                   # id (or ids) in the masks that do not count
    label_map: {0: ignore, 7: road}     # id in the masks: class name, training id or "ignore"
    splits:                             # default: images/SPLIT with masks/SPLIT
      train: {images: img, masks: mask, names: train.txt}
    image_suffix: .jpg                  # default: that of any format that is read
    mask_suffix: .png

YAML reads unquoted yes, no, on and off as truth values: as class names they need quotes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepseg.data.labels import IGNORE_INDEX, LabelMap
from stepseg.data.layouts import IMAGE_SUFFIXES, PairLayout, SplitDirs
from stepseg.data.palettes import distinct_colours
from stepseg.data.specs import Colour, DatasetSpec, available
from stepseg.files.yaml_file import read_yaml
from stepseg.plain_types import check_keys, is_whole

FILE_NAME = "classes.yaml"

_KEYS = (
    "classes", "name", "colours", "ignore_index", "label_map", "splits", "image_suffix",
    "mask_suffix",
)  # fmt: skip


def load_spec(root: Path | str) -> DatasetSpec:
    """Read `classes.yaml` in `root`.

    Raises:
        ValueError: file missing or not as described above; names the file and the key.
    """
    path = Path(root) / FILE_NAME
    if not path.is_file():
        raise ValueError(
            f"{path} not found; data=folder needs it. The least it holds is a line such as "
            "'classes: [road, sky]' for masks with the ids 0 and 1 (255 = ignored)."
        )
    described = read_yaml(path)
    try:
        return _build(described, path.resolve().parent.name)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _build(described: Any, folder: str) -> DatasetSpec:
    if not isinstance(described, Mapping) or not described.get("classes"):
        raise ValueError("needs the key 'classes' with a list of names")
    check_keys("", described, _KEYS)
    classes = _classes(described["classes"])
    return DatasetSpec(
        name=_name(described.get("name"), folder),
        classes=classes,
        palette=_palette(described.get("colours")) or distinct_colours(classes),
        layout=_layout(described),
        label_maps={"ids": _label_map(described, classes)},
    )


def _classes(given: Any) -> tuple[str, ...]:
    if not isinstance(given, list):
        raise ValueError(f"'classes' is a list of names, got {str(given)[:40]!r}")
    for name in given:
        if not isinstance(name, str | int) or isinstance(name, bool):
            raise ValueError(f"classes: {str(name)[:40]} is no name; {_quotes(name)}")
    classes = tuple(map(str, given))
    if len(set(classes)) < len(classes):
        raise ValueError(f"class names must differ, got {list(classes)}")
    return classes


def _palette(given: Any) -> tuple[Colour, ...]:
    """Colours of the classes; empty where none are given."""
    if not isinstance(given or [], list):
        raise ValueError(f"'colours' is a list of [red, green, blue], got {str(given)[:40]!r}")
    return tuple(map(_colour, given or []))


def _colour(given: Any) -> Colour:
    values = given if isinstance(given, list) else []
    if len(values) != 3 or not all(is_whole(value) and 0 <= value <= 255 for value in values):
        raise ValueError(
            f"colours: {str(given)[:40]} is not [red, green, blue] with whole numbers in 0..255"
        )
    red, green, blue = values
    return red, green, blue


def _name(given: Any, folder: str) -> str:
    """What the data are called; never like those that are known without their folder."""
    name = folder if given is None else given
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise ValueError(f"'name' is a word for tables and cards, got {str(name)[:40]!r}")
    return f"own {name}" if name in available() else name


def _layout(described: Mapping[str, Any]) -> PairLayout:
    suffix = described.get("image_suffix")
    image_suffixes = IMAGE_SUFFIXES if suffix is None else (str(suffix),)
    mask_suffix = str(described.get("mask_suffix", ".png"))
    splits = described.get("splits") or {name: {} for name in ("train", "val", "test")}
    dirs = {}
    for split, given in splits.items():
        check_keys(f"splits.{split}", given, ("images", "masks", "names"))
        dirs[str(split)] = (
            SplitDirs(
                images=str(given.get("images", f"images/{split}")),
                labels=str(given.get("masks", f"masks/{split}")),
                image_suffixes=image_suffixes,
                label_suffix=mask_suffix,
                names=given.get("names"),
                choice=f"'image_suffix: {{}}' in {FILE_NAME}",
            ),
        )
    hint = (
        f"{FILE_NAME} says where files lie: 'splits' has folders, and lists of names where splits "
        f"share a folder; 'image_suffix' and 'mask_suffix' have the ends of names."
    )
    return PairLayout(dirs, hint=hint)


def _label_map(described: Mapping[str, Any], classes: tuple[str, ...]) -> LabelMap:
    ignored = described.get("ignore_index", IGNORE_INDEX)
    ignored_ids = [
        _id("ignore_index", i) for i in (ignored if isinstance(ignored, list) else [ignored])
    ]
    given = described.get("label_map")
    if given is None:
        return LabelMap.identity(len(classes), ignored_ids)
    if not isinstance(given, Mapping):
        raise ValueError(
            f"'label_map' has lines such as '7: road' (id in the masks: class), got "
            f"{str(given)[:40]!r}"
        )
    targets = {name: index for index, name in enumerate(classes)} | {"ignore": IGNORE_INDEX}
    pairs = dict.fromkeys(ignored_ids, IGNORE_INDEX)
    for file_id, target in given.items():
        if isinstance(target, bool):  # False == 0: it would lead to a class without a word
            raise ValueError(f"label_map: {file_id}: {target} is no class; {_quotes(target)}")
        if not is_whole(target) and not (isinstance(target, str) and target in targets):
            raise ValueError(
                f"label_map: {target!r} is neither a class name, a training id nor 'ignore'"
            )
        pairs[_id("label_map", file_id)] = target if is_whole(target) else targets[target]
    return LabelMap.from_pairs(pairs)


def _id(key: str, given: Any) -> int:
    if isinstance(given, str) and given.isdecimal():
        return int(given)
    if not is_whole(given):
        raise ValueError(f"{key}: {str(given)[:40]} is no id of a mask, which is a whole number")
    return int(given)


def _quotes(given: Any) -> str:
    """The remedy where YAML took a word for something else."""
    words = "yes, no, on, off, true and false are truth values in YAML: "
    return f"{words * isinstance(given, bool)}put the name in quotes"
