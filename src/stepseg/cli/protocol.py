"""How images are shown to the model of a checkpoint: as it says, changed by what is given."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from stepseg.checkpoint import Checkpoint
from stepseg.cli.result import is_first_process
from stepseg.plain_types import from_values
from stepseg.protocol import Protocol
from stepseg.telling import tell

OWN_SIZE = "none"
"""As `resize_short`: images keep their size, whatever the checkpoint says."""


def choose_protocol(
    command: str, checkpoint: Checkpoint, given: Mapping[str, Any], where: str = ""
) -> Protocol:
    """The checkpoint's protocol, or whole images; changed by what was given, which is then told.

    Args:
        command: its name, for the message.
        checkpoint: what is evaluated.
        given: fields by name; null: the checkpoint's.
        where: what the user calls this part.

    Raises:
        ValueError: values that do not go together.

    """
    stored = asdict(checkpoint.protocol or Protocol())
    said = {key: value for key, value in given.items() if value is not None}
    for key in {"crop", "stride"} & said.keys():
        if isinstance(said[key], int):
            said[key] = (said[key], said[key])
    if said.get("resize_short") == OWN_SIZE:
        said["resize_short"] = None
    mode = said.setdefault("mode", "slide" if {"crop", "stride"} & said.keys() else stored["mode"])
    if "stride" in said or mode != stored["mode"]:
        said = {"even": False} | said
    if mode != stored["mode"]:
        said = {"crop": None, "stride": None} | said
    elif "crop" in said and not stored["even"]:
        said = {"stride": None} | said  # two thirds of the new crop
    chosen = from_values(Protocol, stored | said, where)
    if chosen != checkpoint.protocol and is_first_process():
        told = _told(checkpoint.protocol) if checkpoint.protocol else "nothing"
        tell(f"{command}: images are shown with {_told(chosen)}; the checkpoint says {told}")
    return chosen


def _told(protocol: Protocol) -> str:
    """The mode, and what is not a default."""
    values, defaults = protocol.as_dict(), Protocol().as_dict()
    return " ".join(
        f"{key}={value}" for key, value in values.items() if key == "mode" or value != defaults[key]
    )
