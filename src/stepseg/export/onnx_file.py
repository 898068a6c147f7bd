"""A static segmenter as an ONNX file, by the exporter that builds on `torch.export`.

Needs onnx and onnxscript, of the extra ``stepseg[export]``.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from stepseg.files.writing import write_atomically

OPSET = 18
LIMIT = 2 * 10**9
"""Bytes of weights: a file of protocol buffers ends at 2 GiB."""


def require(*packages: str) -> None:
    """Refuse to start what would end in an import error.

    Raises:
        ValueError: names what is missing and how to install it.

    """
    from importlib.util import find_spec

    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ValueError(
            f"format=onnx needs {' and '.join(missing)}: pip install 'stepseg[export]'"
        )


def write_onnx(
    path: Path, program: ExportedProgram, metadata: Mapping[str, Any], opset: int = OPSET
) -> None:
    """Convert a program and write it atomically, weights inside.

    Inputs and outputs are named ``images``, ``labels`` and, where the model returns them,
    ``scores``. Every key of `metadata` becomes one of the file's ``metadata_props``: words as they
    are, everything else as JSON.

    Raises:
        ValueError: more weights than an ONNX file can hold.

    """
    weights = sum(value.nbytes for value in program.state_dict.values())
    if weights > LIMIT:
        raise ValueError(
            f"{weights} bytes of weights do not fit into one ONNX file (2 GiB): use format=torch"
        )
    outputs = len(program.graph_signature.user_outputs)
    with _quiet("onnxscript", "onnx_ir"):
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            input_names=["images"],
            output_names=["labels", "scores"][:outputs],
            custom_translation_table={torch.ops.aten.sort.stable: _sort_stable()},
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    for key, value in metadata.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        model.metadata_props.add(key=key, value=text)
    content = model.SerializeToString()
    write_atomically(path, lambda file: file.write(content))


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Without the lines that converters log about every single node."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _sort_stable() -> Any:
    """The translation of a stable sort: ONNX's TopK of all puts the lower index first in ties."""
    import onnxscript

    op: Any = onnxscript.opset18

    def sort_stable(self, stable=True, dim=-1, descending=False):
        size = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]))
        return op.TopK(self, size, axis=dim, largest=int(descending), sorted=1)

    return sort_stable
