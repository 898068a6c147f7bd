"""Read what an offline W&B run has written: the records of its `.wandb` file."""

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 32768, 7


@dataclass
class OfflineRun:
    """One run, merged from its records."""

    folder: Path
    id: str = ""
    name: str = ""
    group: str = ""
    project: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    best: dict[str, str] = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def media(self) -> Path:
        return self.folder / "files" / "media"


def offline_runs(output: Path, patience: float = 60.0) -> list[OfflineRun]:
    """All offline runs of an output directory, oldest first; W&B's service ends them at leisure."""
    files = sorted((output / "wandb").glob("offline-run-*/*.wandb"))
    end = time.monotonic() + patience
    while True:
        runs = [_read(file) for file in files]
        if all(run.exit_code is not None for run in runs) or time.monotonic() > end:
            return runs
        time.sleep(0.1)


def _read(file: Path) -> OfflineRun:
    run = OfflineRun(file.parent)
    for record in _records(file.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.id, run.name = record.run.run_id, record.run.display_name
            run.group, run.project = record.run.run_group, record.run.project
            run.job_type, run.tags = record.run.job_type, list(record.run.tags)
        elif kind == "config":
            run.config |= {i.key: json.loads(i.value_json) for i in record.config.update if i.key}
        elif kind == "summary":
            run.summary |= {_key(i): json.loads(i.value_json) for i in record.summary.update}
        elif kind == "history":
            run.keys |= {_key(item) for item in record.history.item}
        elif kind == "metric":
            extreme = record.metric.summary
            kinds = {"max": extreme.max, "min": extreme.min}
            chosen = next((name for name, on in kinds.items() if on), "")
            run.best[record.metric.name or record.metric.glob_name] = chosen
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def _key(item: Any) -> str:
    return item.key or "/".join(item.nested_key)


def _records(data: bytes) -> Iterator[wandb_internal_pb2.Record]:
    """Records of LevelDB's log format: blocks of fragments (1 full, 2 first, 3 middle, 4 last)."""
    assert data[:4] in (b"", b":W&B")
    position, parts = HEADER, b""
    while position + HEADER <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        position += HEADER
        parts += data[position : position + length]
        position += length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record
