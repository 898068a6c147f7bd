"""What every search leaves: the reduction as a file, and the checkpoint's card with the choice."""

from collections.abc import Mapping
from typing import Any

from stepseg.card.files import CARD, default_name
from stepseg.card.text import card_text
from stepseg.card.tuned import with_choice
from stepseg.checkpoint import Checkpoint
from stepseg.cli.config import output_dir
from stepseg.files.writing import write_text
from stepseg.model_config import ReductionConfig
from stepseg.reduction_file import write_reduction

FILE = "reduction.yaml"


def write_choice(
    checkpoint: Checkpoint, reduction: ReductionConfig, name: str, tuned: Mapping[str, Any]
) -> None:
    """Write both into the output directory; the checkpoint stays as it is."""
    write_reduction(output_dir() / FILE, reduction, name, tuned)
    chosen = with_choice(checkpoint, reduction, tuned, measured=False)
    source = checkpoint.path.name
    text = card_text(chosen, default_name(chosen), {}, source=source)
    write_text(output_dir() / CARD, text)
