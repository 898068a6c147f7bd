"""A static segmenter as a `torch.export` program, in memory or in a ``.pt2`` file.

The file is loaded without stepseg: ``torch.export.load(path).module()(images)``. Its extra file
``stepseg.json`` holds what `stepseg.export.job` says about it.
"""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from stepseg.export.static import StaticSegmenter
from stepseg.files.writing import write_atomically

EXTRA_FILE = "stepseg.json"


def export_program(static: StaticSegmenter, batch_size: int | None = 1) -> ExportedProgram:
    """Trace the model.

    Args:
        batch_size: images per call; None leaves it open.

    """
    example = torch.rand(batch_size or 2, 3, *static.image_size)
    shapes = {"images": {0: Dim("batch")}} if batch_size is None else None
    with torch.no_grad():
        return torch.export.export(static.eval(), (example,), dynamic_shapes=shapes)


def write_program(path: Path, program: ExportedProgram, metadata: Mapping[str, Any]) -> None:
    """Write a ``.pt2`` file atomically."""
    extra = {EXTRA_FILE: json.dumps(metadata, ensure_ascii=False)}
    with warnings.catch_warnings():
        # Weights in channels-last order count as no complete tensor; they are written whole.
        warnings.filterwarnings("ignore", message="No complete tensor found")
        write_atomically(path, lambda file: torch.export.save(program, file, extra_files=extra))
