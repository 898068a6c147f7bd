"""What a foreign checkpoint becomes: the parts of one of this project."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from stepseg.build import build_segmenter
from stepseg.data.palettes import distinct_colours
from stepseg.data.specs import available, get_spec
from stepseg.model_config import ModelConfig
from stepseg.protocol import Protocol
from stepseg.weights.fit import check_fit


@dataclass(frozen=True, slots=True)
class Foreign:
    """A checkpoint, translated; every weight has found its place."""

    config: ModelConfig
    state: dict[str, Tensor]
    """By our names, float32."""
    data: dict[str, Any]
    """As of `stepseg.checkpoint.Checkpoint`."""
    protocol: Protocol | None
    about: dict[str, Any] = field(default_factory=dict)

    def check(self, problem: str) -> None:
        """Refuse weights that do not fit, before any is copied.

        Raises:
            ValueError: begins with `problem` and names the weights.

        """
        with torch.device("meta"):
            blank = build_segmenter(self.config, load_weights=False)
        check_fit(blank.state_dict(), self.state, problem)


def describe_classes(names: list[str], source: str) -> dict[str, Any]:
    """The data entry for classes of these names; a data set that is known lends its colours.

    Args:
        names: by id; ``LABEL_3`` and the like are no names.
        source: where they come from, in which a data set may be named.

    """
    unnamed = all(name.upper() == f"LABEL_{index}" for index, name in enumerate(names))
    for known in available():
        if known == "folder":
            continue
        spec = get_spec(known)
        told = known.removesuffix("10k") in source.lower() and unnamed
        alike = [n.lower() for n in names] == [c.lower() for c in spec.classes]
        if len(names) == spec.num_classes and (alike or told):
            palette = [list(colour) for colour in spec.palette]
            return {"name": spec.name, "classes": list(spec.classes), "palette": palette}
    palette = [list(colour) for colour in distinct_colours(names)]
    return {"name": source, "classes": list(names), "palette": palette}
