"""Generated street scenes as a data set on disk: made once, kept in a cache, never half written.

The folder's name contains a hash of the parameters and of the generator's version, so a change of
either makes new scenes instead of mixing two kinds. Two kinds: `synthetic` has classes of its own
(`sets/synthetic.py`), `drives` those of CamVid; drawing: `scenes/`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from stepseg.data.parallel import map_items
from stepseg.data.scenes import drive, street
from stepseg.files.writing import write_json, write_png

_PARAMETERS_FILE = "parameters.json"

KINDS = {
    "synthetic": (street.GENERATOR_VERSION, street.draw_scene),
    "drives": (drive.GENERATOR_VERSION, drive.draw_drive),
}
"""By name of the data set: version and painter."""


@dataclass(frozen=True)
class SceneParameters:
    """What a set of generated scenes depends on, besides the generator's version."""

    image_size: tuple[int, int] = (512, 512)
    """(height, width) in pixels"""
    train_images: int = 400
    val_images: int = 60
    seed: int = 0
    kind: str = "synthetic"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"scenes are {' or '.join(KINDS)}, not {self.kind!r}")
        height, width = (int(edge) for edge in self.image_size)  # YAML brings lists
        object.__setattr__(self, "image_size", (height, width))
        if min(height, width) < 64:
            raise ValueError(f"scenes need at least 64x64 pixels, got {width}x{height}")
        if min(self.train_images, self.val_images) < 1:
            raise ValueError(
                f"need at least one training and one validation scene, got {self.train_images} and "
                f"{self.val_images}"
            )

    @property
    def counts(self) -> dict[str, int]:
        return {"train": self.train_images, "val": self.val_images}

    def digest(self) -> str:
        """Short hash of the parameters and the generator's version."""
        described = json.dumps(_described(self), sort_keys=True)
        return hashlib.sha256(described.encode()).hexdigest()[:12]


def scene_root(cache: Path | str, parameters: SceneParameters) -> Path:
    """Folder of these scenes below `cache`; it may not exist yet."""
    return Path(cache) / f"scenes-{parameters.digest()}"


def ensure_scenes(
    cache: Path | str, parameters: SceneParameters, processes: int | None = None
) -> Path:
    """Folder of the scenes below `cache`, drawn first if they are not there."""
    target = scene_root(cache, parameters)
    draw_scenes(target, parameters, processes)
    return target


def draw_scenes(target: Path, parameters: SceneParameters, processes: int | None = None) -> None:
    """Draw all scenes into `target`, unless exactly these are there.

    `processes` defaults to the CPUs that this process may use. Safe to call from several
    processes at once: each draws into its own temporary folder and the first rename wins.

    Raises:
        ValueError: `target` holds something else.
    """
    if _holds(target, parameters):
        return
    if target.exists() and any(target.iterdir()):
        raise ValueError(
            f"{target} is not empty and does not hold these scenes; choose another folder"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        _draw_all(work, parameters, processes or _usable_cpus())
        write_json(work / _PARAMETERS_FILE, _described(parameters))
        work.chmod(0o755)  # mkdtemp makes private folders; caches may be shared
        try:
            work.rename(target)
        except OSError:  # another process was faster
            if not _holds(target, parameters):
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _described(parameters: SceneParameters) -> dict[str, object]:
    values = asdict(parameters) | {"image_size": list(parameters.image_size)}
    kind = values.pop("kind")
    named = {} if kind == "synthetic" else {"kind": kind}  # older caches know one kind
    return {"generator_version": KINDS[kind][0], **values, **named}


def _holds(target: Path, parameters: SceneParameters) -> bool:
    try:
        found = json.loads((target / _PARAMETERS_FILE).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return False
    return bool(found == _described(parameters))


def _draw_all(folder: Path, parameters: SceneParameters, processes: int) -> None:
    jobs = [(split, i) for split, count in parameters.counts.items() for i in range(count)]
    for _ in map_items(partial(_draw_one, folder, parameters), jobs, processes, chunk=8):
        pass


def _draw_one(folder: Path, parameters: SceneParameters, job: tuple[str, int]) -> None:
    split, index = job
    stream = list(parameters.counts).index(split)
    draw = KINDS[parameters.kind][1]
    image, label = draw(*parameters.image_size, seed=(parameters.seed, stream, index))
    name = f"{index:05d}.png"
    write_png(folder / "images" / split / name, image)
    write_png(folder / "annotations" / split / name, label)


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
