"""Which images an accuracy is of, and how they were shown: what has to be equal to be compared.

What a run leaves at its default is None here, so that older results, which lack the key, agree.
"""

import math
from collections.abc import Mapping
from typing import Any

from stepseg.report.runs import Run
from stepseg.report.values import mapping, number, plain, size_words

DRAWN = ("noise", "fog")
"""Corruptions that draw, by a seed of their own."""


def image_fields(run: Run, entry: Mapping[str, Any], cell: float) -> dict[str, Any]:
    """Data set, split, damage, protocol and size.

    Args:
        run: of a command that measures accuracy.
        entry: one of its rows.
        cell: pixels, per side, that a patch shows.

    """
    data = mapping(run.config.get("data"))
    protocol = mapping(entry.get("protocol"))
    cells = cells_of(entry)
    size: Any = protocol.get("crop") if protocol.get("mode") == "slide" else None
    size = size or whole_size(data, cells, cell)
    return {
        "data": data_name(run),
        "classes": len(entry["per_class_IoU"]) if entry.get("per_class_IoU") else None,
        "images": entry.get("images"),
        "split": split_of(run),
        "corruption": corruption_words(corruption_of(run)),
        "pictures": run.config.get("input") or run.config.get("images"),
        "labels": labels_of(run),
        "protocol": protocol_words(protocol),
        "resolution": size_words(size) if size else f"{cells:.0f} patches" if cells else None,
    }


def special_words(fields: Mapping[str, Any]) -> list[str]:
    """What is unusual about the images, in words; nothing of a validation set as it is."""
    words = [f"split {fields['split']}"] if fields.get("split") else []
    words += [str(fields["corruption"])] if fields.get("corruption") else []
    for key in ("pictures", "labels"):
        found = plain(fields.get(key))
        items = found if isinstance(found, tuple) else (found,) if found else ()
        more = f" and {len(items) - 2} more" if len(items) > 2 else ""
        words += [f"{key} {', '.join(map(str, items[:2]))}{more}"] if items else []
    return words


def data_name(run: Run) -> str:
    """The data set; of a prediction the one whose classes the model knows."""
    own = run.values.get("data")  # of predictions before they said data_name
    name = run.values.get("data_name") or (own if isinstance(own, str) else None)
    return str(name or mapping(run.config.get("data")).get("name", "unknown data"))


def split_of(run: Run) -> str | None:
    """The split that gave the figures; None of the usual one, val."""
    split = mapping(run.config.get("data")).get("val_split" if _validated(run) else "test_split")
    return None if split in (None, "val") else str(split)


def corruption_of(run: Run) -> Mapping[str, Any]:
    """How the images were damaged; empty where they were not."""
    corruption = mapping(mapping(run.config.get("data")).get("corruption"))
    return {} if corruption.get("kind") is None or _validated(run) else corruption


def corruption_words(corruption: Mapping[str, Any]) -> str | None:
    """``noise, strength 2``, without the seed: other noise of that strength is a repetition."""
    if not corruption:
        return None
    return f"{corruption['kind']}, strength {corruption.get('strength', 1)}"


def corruption_seeds(run: Run) -> list[Any]:
    """The seed of a corruption that draws, if there is one."""
    corruption = corruption_of(run)
    return [corruption.get("seed", 0)] if corruption.get("kind") in DRAWN else []


def labels_of(run: Run) -> str | None:
    """The folder of labels that a prediction was given, and how they were read."""
    folder = run.config.get("labels")
    if not folder:
        return None
    return f"{folder} (training ids)" if run.config.get("label_ids") == "training" else str(folder)


def cells_of(entry: Mapping[str, Any]) -> float | None:
    """Patches of an image, all its views together."""
    counts = mapping(entry.get("superpatches"))
    cells = sum((number(counts, side) or 0.0) * int(side) ** 2 for side in counts)
    return round(cells, 3) or None


def views_of(entry: Mapping[str, Any], cell: float) -> float:
    """Windows of an image, in all scales and mirrored; 1 of an image that is shown whole."""
    protocol, cells = mapping(entry.get("protocol")), cells_of(entry)
    crop = protocol.get("crop")
    if protocol.get("mode") != "slide" or not crop or not cells:
        return 1.0
    return cells / (math.ceil(crop[0] / cell) * math.ceil(crop[1] / cell))


def whole_size(data: Mapping[str, Any], cells: float | None, cell: float) -> list[int] | None:
    """The size of images that are shown whole and are all of one configured size."""
    size = data.get("image_size")
    if size and cells == math.ceil(size[0] / cell) * math.ceil(size[1] / cell):
        return list(size)
    return None


def protocol_words(protocol: Mapping[str, Any]) -> str:
    """The part of a protocol that changes figures, in words."""
    words = [str(protocol.get("mode", "unknown"))]
    if protocol.get("resize_short"):
        words.append(f"short side {protocol['resize_short']}")
    if protocol.get("antialias"):
        words.append("antialiased")
    if protocol.get("mode") == "slide":
        even = "even" if protocol.get("even") else f"stride {size_words(protocol.get('stride'))}"
        words.append(f"crop {size_words(protocol.get('crop'))} {even}")
    if protocol.get("scales") not in (None, [1.0], [1]):
        words.append("scales " + ",".join(map(str, protocol["scales"])))
    if protocol.get("flip"):
        words.append("flip")
    return ", ".join(words)


def _validated(run: Run) -> bool:
    """Whether the figures are of a training's validation, which no test followed."""
    return run.command == "stepseg-train" and run.values.get("rows") is None
