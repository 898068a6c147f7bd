"""What a card says of weights that somebody else has trained, and of a policy that came later."""

from collections.abc import Mapping

from stepseg.checkpoint import Checkpoint
from stepseg.files.markdown import code, escape


def origin_of(checkpoint: Checkpoint) -> str | None:
    """Whose weights these are, as Markdown; None: stepseg has trained them."""
    source, kind = checkpoint.about.get("source"), checkpoint.about.get("architecture")
    if not source:
        return None
    return escape(str(source)) + (f" ({escape(str(kind))} of transformers)" if kind else "")


def accelerated_section(checkpoint: Checkpoint) -> str:
    """The section of the card; empty where `stepseg-accelerate` had no part."""
    about, rows = checkpoint.about.get("accelerated"), checkpoint.about.get("systems") or []
    if not isinstance(about, Mapping):
        return ""
    said = (
        f"{code('stepseg-accelerate')} gave the model its policy, which learned from the model's "
        f"own label maps of {about.get('images')} images; no label was read, and no other weight "
        f"has changed."
    )
    if rows and isinstance(rows[-1], Mapping) and "agreement" in rows[-1]:
        said += (
            f" The figures are means over {rows[-1].get('images')} other images; same pixels are "
            f"those with the label of the dense model, which says nothing of mIoU."
        )
    return f"## Accelerated\n\n{said}"
