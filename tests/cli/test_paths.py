"""The configs are found from everywhere: checkout, wheel, script, module, any working directory."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from stepseg.cli import paths

ROOT = Path(__file__).parents[2]

# A command in the shape of ours, small enough to start in a second.
PROBE = """
import hydra
from stepseg.cli.paths import config_dir, register_experiments

register_experiments()

@hydra.main(config_path=config_dir(), config_name="probe", version_base="1.3")
def main(cfg):
    print("size", cfg.size, "of", config_dir())

if __name__ == "__main__":
    main()
"""
SCRIPT = "import sys\nfrom probe_app.command import main\nsys.exit(main())\n"
EXPERIMENT = "# @package _global_\n# A comment.\nsize: 7\n"


@pytest.fixture
def configs(tmp_path):
    """Writes a conf/ and an experiments/ folder, as the repository has them, below a parent."""

    def write(parent: Path) -> Path:
        (parent / "conf" / "data").mkdir(parents=True)
        (parent / "conf" / "probe.yaml").write_text("defaults: [data: small, _self_]\nsize: 1\n")
        (parent / "conf" / "data" / "small.yaml").write_text("root: null\n")
        (parent / "experiments" / "camvid").mkdir(parents=True)
        (parent / "experiments" / "camvid" / "train.yaml").write_text(EXPERIMENT)
        (parent / "experiments" / "camvid" / "README.md").write_text("Not a config.\n")
        (parent / "experiments" / "camvid" / "results.csv").write_text("mIoU\n1.0\n")
        (parent / "experiments" / "camvid" / "plot.py").write_text("raise SystemExit\n")
        return parent

    return write


@pytest.fixture
def probe(tmp_path):
    """Runs the probe from an unrelated directory, as `module` or as console `script`."""
    app = tmp_path / "apps" / "probe_app"
    app.mkdir(parents=True)
    (app / "__init__.py").touch()
    (app / "command.py").write_text(PROBE)
    script = tmp_path / "bin" / "probe"
    script.parent.mkdir()
    script.write_text(SCRIPT)
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    entries = {"module": ["-m", "probe_app.command"], "script": [str(script)]}

    def run(entry: str, *arguments: str, stepseg: Path = ROOT / "src", **variables: str):
        own = ("STEPSEG_CONF", "STEPSEG_EXPERIMENTS")
        environment = {k: v for k, v in os.environ.items() if k not in own}
        environment["PYTHONPATH"] = os.pathsep.join([str(app.parent), str(stepseg)])
        return subprocess.run(
            [sys.executable, *entries[entry], *arguments],
            cwd=elsewhere,
            env=environment | variables,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An imitated src/stepseg, so that the order of the search is tested without installing."""
    folder = tmp_path / "checkout" / "src" / "stepseg"
    folder.mkdir(parents=True)
    monkeypatch.setattr(paths, "PACKAGE", folder)
    monkeypatch.delenv("STEPSEG_CONF", raising=False)
    monkeypatch.delenv("STEPSEG_EXPERIMENTS", raising=False)
    return folder


FINDERS = [
    (paths.config_dir, "conf", "STEPSEG_CONF"),
    (paths.experiments_dir, "experiments", "STEPSEG_EXPERIMENTS"),
]


@pytest.mark.parametrize(("find", "name", "variable"), FINDERS)
def test_order_of_the_search(find, name, variable, package, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=variable):
        find()
    checkout = tmp_path / "checkout" / name
    checkout.mkdir()
    assert find() == str(checkout)
    (package / name).mkdir()
    assert find() == str(package / name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv(variable, "mine")
    assert find() == str(tmp_path / "mine")


@pytest.mark.parametrize(("find", "name", "variable"), FINDERS)
def test_variable_that_names_no_directory(find, name, variable, package, tmp_path, monkeypatch):
    file = tmp_path / "train.yaml"
    file.touch()
    for wrong in (file, tmp_path / "missing"):
        monkeypatch.setenv(variable, str(wrong))
        with pytest.raises(NotADirectoryError, match=f"{variable}=.*{wrong.name}"):
            find()


@pytest.mark.parametrize("entry", ["module", "script"])
def test_experiment_overrides_conf(entry, probe, configs, tmp_path):
    folder = configs(tmp_path / "here")
    variables = {
        "STEPSEG_CONF": str(folder / "conf"),
        "STEPSEG_EXPERIMENTS": str(folder / "experiments"),
    }
    plain = probe(entry, **variables)
    assert plain.stdout == f"size 1 of {folder / 'conf'}\n", plain.stderr
    chosen = probe(entry, "+experiments=camvid/train", **variables)
    assert chosen.stdout == f"size 7 of {folder / 'conf'}\n", chosen.stderr


def test_swept_and_missing_experiments(probe, configs, tmp_path):
    folder = configs(tmp_path / "here")
    (folder / "experiments" / "camvid" / "eval.yaml").write_text("# @package _global_\nsize: 9\n")
    variables = {
        "STEPSEG_CONF": str(folder / "conf"),
        "STEPSEG_EXPERIMENTS": str(folder / "experiments"),
    }
    swept = probe("module", "-m", "+experiments/camvid=glob(*)", **variables)
    sizes = [line.split()[1] for line in swept.stdout.splitlines() if line.startswith("size")]
    assert sizes == ["9", "7"], swept.stdout + swept.stderr
    missing = probe("module", "+experiments=camvid/trian", **variables)
    assert missing.returncode != 0
    assert "camvid/trian" in missing.stderr


def test_help_lists_experiments_and_nothing_else_of_the_checkout(probe, configs, tmp_path):
    folder = configs(tmp_path / "here")
    (folder / "unrelated").mkdir()
    (folder / "unrelated" / "settings.yaml").write_text("a: 1\n")
    shown = probe(
        "module",
        "--help",
        STEPSEG_CONF=str(folder / "conf"),
        STEPSEG_EXPERIMENTS=str(folder / "experiments"),
    )
    assert "data: small" in shown.stdout
    assert "experiments/camvid: train\n" in shown.stdout
    assert "unrelated" not in shown.stdout


@pytest.fixture
def build(tmp_path, configs):
    """Builds a wheel or an sdist of this package with small configs, offline."""
    project = configs(tmp_path / "project")
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        (project / name).write_text((ROOT / name).read_text(encoding="utf-8"))
    (project / "src").symlink_to(ROOT / "src")

    def run(kind: str) -> Path:
        out = tmp_path / kind
        command = [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", out]
        result = subprocess.run([*command, project], capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, result.stdout + result.stderr
        return next(out.iterdir())

    return run


CARRIED = [
    "conf/probe.yaml",
    "conf/data/small.yaml",
    "experiments/camvid/train.yaml",
    "experiments/camvid/README.md",
    "experiments/camvid/results.csv",
]


@pytest.mark.parametrize("entry", ["module", "script"])
def test_wheel_outside_the_checkout(entry, build, probe, tmp_path):
    wheel = build("wheel")
    target = tmp_path / "target"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", target, wheel], check=True, timeout=120)
    assert not (target / "stepseg/experiments/camvid/plot.py").exists()
    for name in [*CARRIED, "py.typed"]:
        assert (target / "stepseg" / name).is_file(), name
    result = probe(entry, "+experiments=camvid/train", stepseg=target)
    assert result.stdout == f"size 7 of {target / 'stepseg/conf'}\n", result.stderr


def test_sdist_carries_configs(build):
    with tarfile.open(build("sdist")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= {*CARRIED, "LICENSE", "constraints.txt", "src/stepseg/cli/paths.py"}


def test_real_configs_and_pages_all_go_into_the_wheel(tmp_path):
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path]
    result = subprocess.run([*command, ROOT], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        packed = set(wheel.namelist())
    for folder in ("conf", "experiments"):
        wanted = {f"stepseg/{file.relative_to(ROOT)}" for file in (ROOT / folder).rglob("*.yaml")}
        assert wanted
        assert wanted <= packed
    package = ROOT / "src" / "stepseg"
    for suffix in ("html", "css", "js"):
        wanted = {f"stepseg/{file.relative_to(package)}" for file in package.rglob(f"*.{suffix}")}
        assert wanted, f"no page of {suffix}"
        assert wanted <= packed
