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
from stepseg.cli.hydra_command import hydra_command
from stepseg.cli.paths import config_dir

@hydra_command("probe", config_name="probe")
def main(cfg):
    print("size", cfg.size, "of", config_dir())

if __name__ == "__main__":
    main()
"""
SCRIPT = "import sys\nfrom probe_app.command import main\nsys.exit(main())\n"
PRIMARY = """
defaults: [data: small, _self_, experiment: null, override hydra/job_logging: none]
size: 1
user: {}
"""
EXPERIMENT = "# @package _global_\n# A comment.\nsize: 7\n"


@pytest.fixture
def configs(tmp_path):
    """Writes a conf/ and an experiments/ folder, as the repository has them, below a parent."""

    def write(parent: Path) -> Path:
        (parent / "conf" / "data").mkdir(parents=True)
        (parent / "conf" / "experiment" / "camvid").mkdir(parents=True)
        (parent / "conf" / "probe.yaml").write_text(PRIMARY)
        (parent / "conf" / "data" / "small.yaml").write_text("root: null\n")
        (parent / "conf" / "experiment" / "camvid" / "train.yaml").write_text(EXPERIMENT)
        (parent / "experiments" / "camvid").mkdir(parents=True)
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


@pytest.mark.parametrize(
    ("find", "name"), [(paths.config_dir, "conf"), (paths.experiments_dir, "experiments")]
)
def test_order_of_the_search(find, name, package, tmp_path):
    with pytest.raises(FileNotFoundError, match=name):
        find()
    checkout = tmp_path / "checkout" / name
    checkout.mkdir()
    assert find() == str(checkout)
    (package / name).mkdir()
    assert find() == str(package / name)


@pytest.mark.parametrize(
    ("find", "variable", "inside"),
    [
        (paths.config_dir, "STEPSEG_CONF", ""),
        (paths.own_experiments, "STEPSEG_EXPERIMENTS", "experiment"),
    ],
)
def test_variables(find, variable, inside, package, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / inside).mkdir(parents=True)
    monkeypatch.setenv(variable, "mine")
    assert Path(find()) == tmp_path / "mine"
    (tmp_path / "train.yaml").touch()
    for wrong in ("train.yaml", "missing"):
        monkeypatch.setenv(variable, wrong)
        with pytest.raises(NotADirectoryError, match=f"{variable}=.*{wrong}"):
            find()


@pytest.mark.parametrize(
    ("entry", "typed", "size"),
    [("module", "+user.foo=1", 1), ("script", "experiment=camvid/train", 7)],
)
def test_experiment_overrides_conf(entry, typed, size, probe, configs, tmp_path):
    folder = configs(tmp_path / "here") / "conf"
    done = probe(entry, typed, STEPSEG_CONF=str(folder))
    assert done.stdout == f"size {size} of {folder}\n", done.stderr


def test_experiments_as_they_may_be_typed(probe, configs, tmp_path):
    folder = configs(tmp_path / "here") / "conf"
    (folder / "experiment" / "camvid" / "eval.yaml").write_text("# @package _global_\nsize: 9\n")
    for typed in ("+experiments=camvid/train", "+experiment=camvid/train"):
        assert probe("module", typed, STEPSEG_CONF=str(folder)).stdout.startswith("size 7")
    swept = probe("module", "-m", "+experiments=camvid/train,camvid/eval", STEPSEG_CONF=str(folder))
    sizes = [line.split()[1] for line in swept.stdout.splitlines() if line.startswith("size")]
    assert sizes == ["7", "9"], swept.stdout + swept.stderr
    missing = probe("module", "experiment=camvid/trian", STEPSEG_CONF=str(folder))
    assert missing.returncode == 2
    assert "there is no such choice; did you mean 'camvid/train'" in missing.stderr


@pytest.mark.parametrize("way", ["option", "variable"])
def test_experiments_of_ones_own(way, probe, configs, tmp_path):
    conf, mine = configs(tmp_path / "here") / "conf", tmp_path / "mine"
    (mine / "experiment" / "pond").mkdir(parents=True)
    (mine / "experiment" / "pond" / "train.yaml").write_text(EXPERIMENT.replace("7", "5"))
    options = ["--config-dir", str(mine)] if way == "option" else []
    variables = {} if way == "option" else {"STEPSEG_EXPERIMENTS": str(mine)}
    both = "experiment=pond/train,camvid/train"
    done = probe("script", *options, "-m", both, STEPSEG_CONF=str(conf), **variables)
    sizes = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("size")]
    assert sizes == ["5", "7"], done.stdout + done.stderr


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["+foo=1"], "unknown key foo; known: data, size, user; keys of your own: +user.name="),
        (["+sise.a=1"], "unknown key sise; did you mean 'size'"),
        (["experiment=typo"], "unknown key siez; did you mean 'size'"),
        (["-m", "size=1,2", "+experiment.foo=1"], "unknown key experiment"),
    ],
)
def test_unknown_keys_at_the_root(typed, said, probe, configs, tmp_path):
    folder = configs(tmp_path / "here") / "conf"
    (folder / "experiment" / "typo.yaml").write_text("# @package _global_\nsiez: 9\n")
    refused = probe("module", *typed, STEPSEG_CONF=str(folder))
    assert (refused.returncode, refused.stdout.count(" of /")) == (2, 0), refused.stderr
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr


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
    "conf/experiment/camvid/train.yaml",
    "experiments/camvid/README.md",
    "experiments/camvid/results.csv",
]


@pytest.mark.parametrize("entry", [pytest.param("module", marks=pytest.mark.slow), "script"])
def test_wheel_outside_the_checkout(entry, build, probe, tmp_path):
    wheel = build("wheel")
    target = tmp_path / "target"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", target, wheel], check=True, timeout=120)
    assert not (target / "stepseg/experiments/camvid/plot.py").exists()
    for name in [*CARRIED, "py.typed"]:
        assert (target / "stepseg" / name).is_file(), name
    result = probe(entry, "experiment=camvid/train", stepseg=target)
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
    for folder, suffix in (("conf", "yaml"), ("experiments", "csv"), ("experiments", "md")):
        files = (ROOT / folder).rglob(f"*.{suffix}")
        wanted = {f"stepseg/{file.relative_to(ROOT)}" for file in files}
        assert wanted
        assert wanted <= packed
    package = ROOT / "src" / "stepseg"
    for suffix in ("html", "css", "js"):
        wanted = {f"stepseg/{file.relative_to(package)}" for file in package.rglob(f"*.{suffix}")}
        assert wanted, f"no page of {suffix}"
        assert wanted <= packed
