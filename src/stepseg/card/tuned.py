"""What `stepseg-tune` chose for a model, in its weights' header and in its card."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stepseg.card.facts import BEFORE
from stepseg.checkpoint import Checkpoint
from stepseg.files.markdown import code, escape
from stepseg.model_config import ReductionConfig

KEY = "tuned"


def with_choice(
    checkpoint: Checkpoint,
    reduction: ReductionConfig,
    tuned: Mapping[str, Any],
    *,
    measured: bool = True,
) -> Checkpoint:
    """The checkpoint with another reduction as its own; all heads that it has stay.

    Args:
        checkpoint: any.
        reduction: one that its model can carry out.
        tuned: what the file of the reduction says about it; of the one before nothing stays.
        measured: whether the figures that the checkpoint carries are of this reduction.

    """
    changed = reduction.build() != checkpoint.config.reduction.build()
    own = checkpoint.config.reduction.exit
    if own is not None and own.head_blocks:
        chosen = reduction.exit or replace(own, blocks=(), rule="confidence", tokens=())
        reduction = replace(reduction, exit=replace(chosen, heads=own.head_blocks))
    config = replace(checkpoint.config, reduction=reduction)
    about = {key: value for key, value in checkpoint.about.items() if key not in (KEY, BEFORE)}
    about |= {KEY: dict(tuned)} if tuned else {}
    about |= {BEFORE: True} if changed and not measured else {}
    return replace(checkpoint, config=config, about=about)


def tuned_section(checkpoint: Checkpoint) -> str:
    """The section of the card; empty where nothing was tuned."""
    tuned = checkpoint.about.get(KEY)
    if not isinstance(tuned, Mapping):
        return ""
    lines = []
    if isinstance(tuned.get("target"), Mapping):
        target = ", ".join(f"{key}={value:g}" for key, value in tuned["target"].items())
        lines.append(
            f"Its own reduction was chosen by {code(f'stepseg-tune {target}')}: "
            f"{tuned.get('mIoU', 0):.2f} mIoU at {tuned.get('gmacs_mean', 0):.3g} GMACs on "
            f"{tuned.get('images')} images of {escape(str(tuned.get('data')))} that the search had "
            f"not seen (without reduction {tuned.get('dense_mIoU', 0):.2f} at "
            f"{tuned.get('dense_gmacs_mean', 0):.3g})."
        )
    certificate = tuned.get("certificate")
    if isinstance(certificate, Mapping):
        lines.append(_promise(certificate))
    return "## Tuned\n\n" + "\n\n".join(lines) if lines else ""


def _promise(certificate: Mapping[str, Any]) -> str:
    share = f"at most {100 * certificate.get('alpha', 1):g} % of all pixels"
    delta = certificate.get("delta")
    sure = "In the mean" if delta is None else f"With {100 * (1 - delta):g} % confidence"
    return (
        f"{sure}, its own reduction changes {share} against the model without reduction, on images "
        f"like the {certificate.get('n')} on which that was certified (bound "
        f"{certificate.get('bound')}, images' SHA-256 {certificate.get('images_sha256')}). This "
        f"says nothing of mIoU, of images of another kind, or of frames of one drive."
    )
