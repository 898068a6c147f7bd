"""What the package promises before any of it runs: commands, pins and a core without frameworks."""

import importlib
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import stepseg

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
GROUPS = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
REQUIREMENTS = [
    requirement
    for group in GROUPS
    for requirement in map(Requirement, group)
    if requirement.name != PROJECT["name"]
]
PIN_LINES = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("command", sorted(PROJECT["scripts"]))
def test_console_script_resolves(command):
    module, _, attribute = PROJECT["scripts"][command].partition(":")
    assert callable(getattr(importlib.import_module(module), attribute))


def test_constraints_hold_nothing_but_pins():
    pin = re.compile(
        r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.]*( ; python_version [<>=]+ '3\.\d+')?"
    )
    assert [line for line in PIN_LINES if not pin.fullmatch(line)] == []


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_every_direct_dependency_is_pinned_within_its_range(requirement):
    pins = [Requirement(line) for line in PIN_LINES]
    versions = [
        next(iter(pin.specifier)).version
        for pin in pins
        if canonicalize_name(pin.name) == canonicalize_name(requirement.name)
    ]
    assert versions, f"constraints.txt does not pin {requirement.name}"
    for version in versions:
        assert requirement.specifier.contains(version, prereleases=True)


def test_malicious_lightning_releases_are_out_of_range():
    lightning = next(r for r in REQUIREMENTS if r.name == "lightning")
    assert not any(lightning.specifier.contains(Version(v)) for v in ("2.6.2", "2.6.3"))


def test_the_citation_names_this_version_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == stepseg.__version__
    assert citation["license"] == PROJECT["license"]


FRAMEWORKS = {"lightning", "pytorch_lightning", "lightning_fabric", "hydra", "omegaconf", "wandb"}


def run_python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


CORE = """
packed model build checkpoint.checkpoint predict.segmenter protocol
data.check data.loader data.prepare
""".split()

COMMANDS = ["cli.predict.job", "cli.benchmark.job", "cli.export.job", "cli.report"]


def test_core_imports_without_frameworks_and_commands_without_lightning():
    code = f"""
import importlib, sys

refused = {FRAMEWORKS}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"it imports {{name}}", name=name)

sys.meta_path.insert(0, Blocker())
for module in {CORE}:
    importlib.import_module(f"stepseg.{{module}}")
refused = {{"lightning", "torchmetrics"}}
for module in {COMMANDS}:
    importlib.import_module(f"stepseg.{{module}}")
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr


def test_bare_imports_load_no_framework():
    """The package none at all, a command none that takes seconds before it has its orders."""
    result = run_python(
        "import stepseg, sys; assert stepseg.__version__; "
        "print([m for m in ('torch', 'numpy', 'hydra', 'timm') if m in sys.modules]); "
        "import stepseg.cli.hydra_command; "
        "print([m for m in ('torch', 'timm', 'lightning', 'matplotlib') if m in sys.modules])"
    )
    assert result.stdout.split() == ["[]", "[]"], result.stderr


def test_wheel_carries_configs_and_launchers(tmp_path):
    """Unpacked somewhere else, stepseg finds its configs and Hydra finds the launchers."""
    build = "from hatchling.build import build_wheel; import sys; print(build_wheel(sys.argv[1]))"
    made = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    assert not (site / "hydra_plugins" / "__init__.py").exists()  # a namespace of many plugins
    result = run_python(
        f"""
import sys
sys.path.insert(0, {str(site)!r})
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from importlib.metadata import entry_points
import stepseg.cli.paths
found = Plugins.instance().discover(Launcher)
names = {{c.__name__: sys.modules[c.__module__].__file__ for c in found}}
assert names["GpuPoolLauncher"].startswith({str(site)!r}), names
assert {{"RayLauncher", "SlurmLauncher"}} <= set(names)
assert all(p.load().__name__ in names for p in entry_points(group="hydra.plugins")
           if p.name.startswith("stepseg"))
assert stepseg.cli.paths.config_dir() == {str(site / "stepseg" / "conf")!r}
"""
    )
    assert result.returncode == 0, result.stderr
    assert (site / "stepseg" / "conf" / "hydra" / "launcher" / "slurm.yaml").is_file()
