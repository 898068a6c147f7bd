"""The house stands in floors: a part imports from the floors below it, and nothing runs in circles.

Read from the sources, so that imports inside functions count as well.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"

FLOORS = [
    "ops data weights telling",
    "dcts vit heads",
    "merging segmentation",
    "board reduction label_map pictures macs",
    "group model_config report budget",
    "model reduction_file",
    "build runtime profile",
    "foreign metrics explorer",
    "checkpoint",
    "grid",
    "evaluation predict",
    "stepseg",
    "card export lit tuning",
    "accelerate",
    "cli",
]
"""From the ground up, where everything lies that imports no other part. What shares a floor does
not import each other."""

FRAMEWORKS = {
    "lightning": {"lit", "cli"},
    "wandb": {"lit", "cli"},
    "hydra": {"cli"},
    "omegaconf": {"cli"},
}
"""Who may import them; everything else is plain PyTorch."""


@cache
def imports() -> dict[str, set[str]]:
    """What every module imports, modules of this tree by their own name."""
    names = {module_name(path): path for path in sorted(SRC.rglob("*.py"))}
    return {name: set(imported(path, names)) for name, path in names.items()}


def module_name(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, names: dict[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            assert node.module
            for alias in node.names:  # a name, or a module of a package
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in names else node.module


def part(module: str) -> str:
    """`dcts` of `stepseg.dcts.merge`; the package itself is `stepseg`."""
    return module.removeprefix("stepseg.").split(".")[0]


def test_no_circles():
    """Among modules, also by imports that wait inside a function."""
    try:
        TopologicalSorter(imports()).prepare()
    except CycleError as error:
        pytest.fail(f"modules that import each other: {error.args[1]}")


def test_every_import_goes_down():
    floors = {name: number for number, names in enumerate(FLOORS, 1) for name in names.split()}
    ours = {name: found for name, found in imports().items() if name.startswith("stepseg")}
    for name, found in ours.items():
        for other in found & ours.keys():
            if part(other) != part(name):
                assert part(name) in floors, f"say in FLOORS where {part(name)} belongs"
                lower = floors.get(part(other), 0) < floors[part(name)]
                assert lower, f"{name} imports {other}, which lies no lower"


def test_frameworks_stay_above():
    for name, found in imports().items():
        for other in found if name.startswith("stepseg") else ():
            allowed = FRAMEWORKS.get(other.split(".")[0])
            assert allowed is None or part(name) in allowed, f"{name} imports {other}"


def test_the_pool_knows_nothing_of_stepseg():
    for name, found in imports().items():
        if name.startswith("gpu_pool"):
            foreign = sorted(other for other in found if "stepseg" in other)
            assert not foreign, f"{name} imports {foreign}"


def test_no_room_is_a_house_of_its_own():
    """Above 15 % of all lines a part has parts that want a name."""
    lines = Counter[str]()
    for path in SRC.rglob("*.py"):
        lines[part(module_name(path))] += len(path.read_text().splitlines())
    name, most = lines.most_common(1)[0]
    assert most <= 0.15 * lines.total(), f"{name} has {most} of {lines.total()} lines"
