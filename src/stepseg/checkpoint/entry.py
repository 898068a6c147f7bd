"""The ``stepseg`` entry of a checkpoint: plain values that say what its weights are.

Parsed with suspicion, because files are passed around: every key known, every value of its type,
every count small. Nothing in it names code to run.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from stepseg.dcts.targets import HomogeneityRule
from stepseg.model_config import ModelConfig
from stepseg.plain_types import check_count, check_keys, check_types, from_values
from stepseg.protocol import Protocol

FORMAT = 1
KEY = "stepseg"
MAX_CLASSES = 2**16
MAX_ABOUT = 2**20
"""Characters of the part that only people read."""
MAX_VALUES = 2**20
"""Values of an entry in all; 65536 classes with their colours have 330 thousand."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a checkpoint says about itself."""

    model: ModelConfig
    data: dict[str, Any]
    """``name``, ``classes``, ``palette`` and ``ignore_index``."""
    protocol: Protocol | None = None
    step: int = 0
    about: dict[str, Any] = field(default_factory=dict)
    rule: HomogeneityRule | None = None
    """What made a window homogeneous, under ``homogeneity``."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the inverse of `parse_entry`."""
        plain: dict[str, Any] = {
            "format": FORMAT,
            "model": self.model.to_dict(),
            "data": self.data,
        }
        if self.protocol is not None:
            plain["protocol"] = self.protocol.as_dict()
        if self.rule is not None:
            plain["homogeneity"] = asdict(self.rule)
        if self.step:
            plain["step"] = self.step
        if self.about:
            plain["about"] = self.about
        return plain


def parse_entry(plain: Any) -> Entry:
    """Check an entry out of a file.

    Raises:
        ValueError: of another format, a key unknown or missing, a value of another type.

    """
    if not isinstance(plain, Mapping):
        raise ValueError(f"its {KEY!r} entry is a {type(plain).__name__}, not a mapping")
    if plain.get("format") != FORMAT:
        raise ValueError(
            f"the checkpoint has format {plain.get('format')!r}, this version reads {FORMAT}"
        )
    check_count(plain, MAX_VALUES, f"its {KEY!r} entry")
    needed = ("format", "model", "data")
    check_keys("", plain, (*needed, "protocol", "homogeneity", "step", "about"), needed)
    model = _typed("model", plain["model"], ModelConfig.from_dict)
    protocol, rule = plain.get("protocol"), plain.get("homogeneity")
    step, about = plain.get("step", 0), plain.get("about", {})
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise ValueError(f"step is {step!r}, expected a count")
    if not isinstance(about, dict) or len(repr(about)) > MAX_ABOUT:
        raise ValueError(f"about must be a mapping of at most {MAX_ABOUT} characters")
    return Entry(
        model=model,
        data=_data(plain["data"], model.num_classes),
        protocol=_part("protocol", protocol, Protocol),
        step=step,
        about=about,
        rule=_part("homogeneity", rule, HomogeneityRule),
    )


def _part(part: str, values: Any, kind: type[Any]) -> Any:
    """A part that older files lack."""
    make = partial(from_values, kind, where=part)
    return None if values is None else _typed(part, values, make)


def _typed(part: str, values: Any, make: Callable[[Mapping[str, Any]], Any]) -> Any:
    """Make a configuration; whatever goes wrong with foreign values is one kind of error."""
    try:
        if not isinstance(values, Mapping):
            raise ValueError(f"it is a {type(values).__name__}, not a mapping")
        config = make(values)
        check_types(config)
        return config
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"its {part} configuration is not usable: {error}") from error


def _data(values: Any, num_classes: int) -> dict[str, Any]:
    """The description of the data set, complete and checked against the number of classes."""
    if not isinstance(values, Mapping):
        raise ValueError(f"its data entry is a {type(values).__name__}, not a mapping")
    needed = ("name", "classes", "palette")
    check_keys("data", values, (*needed, "ignore_index"), needed)
    data = {"ignore_index": 255, **values}
    classes, palette = data["classes"], data["palette"]
    if not isinstance(data["name"], str) or not isinstance(data["ignore_index"], int):
        raise ValueError("data.name must be a word and data.ignore_index a number")
    if num_classes > MAX_CLASSES or not isinstance(classes, list) or len(classes) != num_classes:
        count = len(classes) if isinstance(classes, list) else type(classes).__name__
        raise ValueError(f"data.classes names {count} classes, the model has {num_classes}")
    if not all(isinstance(name, str) for name in classes):
        raise ValueError("data.classes must be words")
    if not isinstance(palette, list) or len(palette) != num_classes:
        raise ValueError(f"data.palette must have a colour for each of {num_classes} classes")
    if not all(_is_colour(colour) for colour in palette):
        raise ValueError("data.palette must be triples of 0..255")
    return data


def _is_colour(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(channel) is int and 0 <= channel <= 255 for channel in value)
    )
