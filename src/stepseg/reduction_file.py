"""A reduction as a YAML file, as `stepseg-tune` writes it: what `reduction=<file>` reads.

Its parts are those of `ReductionConfig`, complete; besides them a ``name`` for tables and, under
``tuned``, what the file was made for and what it achieved, for people and for cards.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import yaml

from stepseg.files.writing import write_text
from stepseg.files.yaml_file import read_yaml
from stepseg.model_config import ReductionConfig

SUFFIX = ".yaml"
NULL = ("thresholds",)
"""What is something else without a value than by default."""
BESIDE = ("name", "tuned")
"""What a file says beside the parts of the reduction."""


def read_values(path: str | Path) -> dict[str, Any]:
    """All that a file says, checked.

    Raises:
        ValueError: no such file, or no reduction; names it.

    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"reduction={path}: there is no such file")
    try:
        values = read_yaml(path)
        if not isinstance(values, Mapping) or not any(values.get(part) for part in _parts()):
            raise ValueError(f"it has none of {', '.join(_parts())}")
        reduction_of(values)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"reduction={path} is no reduction of stepseg-tune: {error}") from error
    off = asdict(ReductionConfig())
    return {"name": path.stem, **off, **values}


def read_reduction(path: str | Path) -> ReductionConfig:
    """The reduction in a file; errors as of `read_values`."""
    return reduction_of(read_values(path))


def reduction_of(values: Mapping[str, Any]) -> ReductionConfig:
    """The reduction among the values of a file.

    Raises:
        ValueError: unknown keys, or values that cannot be.

    """
    return ReductionConfig.from_dict({k: v for k, v in values.items() if k not in BESIDE})


def write_reduction(
    path: Path, reduction: ReductionConfig, name: str, tuned: Mapping[str, Any]
) -> None:
    """Write a file that `read_values` reads, atomically, without the parts that are off."""
    parts = {
        part: {k: _plain(v) for k, v in values.items() if v is not None or k in NULL}
        for part, values in asdict(reduction).items()
        if values
    }
    content = {"name": name, **{part: values for part, values in parts.items() if values}}
    values = {**content, "tuned": dict(tuned)}
    text = yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=100)
    write_text(
        path, f"# Written by stepseg-tune; every command takes it: reduction={path.name}\n{text}"
    )


def _parts() -> tuple[str, ...]:
    return tuple(field.name for field in fields(ReductionConfig))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
