"""The Dockerfile says what is true of the repository: sources, extras, commands, settings."""

import re
import shlex
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TEXT = (ROOT / "Dockerfile").read_text()
STEPS = [
    (step.split(maxsplit=1)[0], step.split(maxsplit=1)[1])
    for step in re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", TEXT, flags=re.M)).splitlines()
    if step
]
CONTEXT = [
    line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
]


def arguments(name):
    return [rest for step, rest in STEPS if step == name]


def environment():
    return dict(word.split("=", 1) for rest in arguments("ENV") for word in shlex.split(rest))


def test_what_is_copied_is_in_the_context():
    copied = [shlex.split(rest)[:-1] for rest in arguments("COPY")]
    assert ["."] in copied
    for sources in copied:
        if sources[0].startswith("--from="):
            assert any(rest.endswith(f"AS {sources[0][7:]}") for rest in arguments("FROM"))
        elif sources != ["."]:
            assert set(sources) <= set(CONTEXT)
    assert all((ROOT / name).exists() for name in CONTEXT)


def test_the_wheel_is_built_from_what_the_context_holds():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    needed = {PROJECT["readme"], *PROJECT["license-files"]}
    needed |= {name.strip("/").split("/")[0] for name in build["targets"]["wheel"]["include"]}
    assert needed <= set(CONTEXT)
    assert not any(fnmatch(name, ".git*") for name in CONTEXT)


@pytest.mark.parametrize("extras", ["", "hub video"])
def test_requirements_are_those_of_the_project(extras):
    (code,) = re.findall(r'RUN python -c "(.*?)" +>', "\n".join(f"{a} {b}" for a, b in STEPS))
    code = code.replace("$EXTRAS", extras).replace("/pyproject.toml", str(ROOT / "pyproject.toml"))
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    groups = [PROJECT["optional-dependencies"][name] for name in extras.split()]
    assert lines.stdout.splitlines() == [*PROJECT["dependencies"], *(r for g in groups for r in g)]


def test_default_extras_and_command_exist():
    (extras,) = (shlex.split(a)[0].split("=")[1] for a in arguments("ARG") if "EXTRAS" in a)
    assert set(extras.split()) <= set(PROJECT["optional-dependencies"])
    (command,) = arguments("CMD")
    assert re.findall(r'"([^"]+)"', command)[0] in PROJECT["scripts"]


def test_python_is_the_one_of_the_pins():
    versions = set(re.findall(r"^FROM python:(\d+\.\d+)", TEXT, re.M))
    (minimum,) = re.findall(r">=(\d+\.\d+)", PROJECT["requires-python"])
    assert versions == {minimum}


def test_it_runs_as_a_user_who_can_write_where_it_writes():
    assert arguments("USER") == ["1000"]
    folders = re.findall(r"install -d -m 1777 (.*)", "\n".join(arguments("RUN")))[0].split()
    values = environment()
    paths = [value for value in values.values() if value.startswith("/")]
    assert len(paths) > 5
    for path in [
        *paths,
        *arguments("WORKDIR")[-1:],
        *re.findall(r'"(.*?)"', arguments("VOLUME")[0]),
    ]:
        assert any(path == folder or path.startswith(f"{folder}/") for folder in folders), path


def test_its_settings_are_read_by_the_code():
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "conf").rglob("*.yaml")]
    text = "\n".join(path.read_text() for path in sources)
    ours = [name for name in environment() if name.startswith("STEPSEG_")]
    assert len(ours) == 3
    assert [name for name in ours if name not in text] == []


def test_commit_of_an_installed_package(tmp_path, monkeypatch):
    """Not that of a repository around the environment, but what the image was built with."""
    from stepseg.cli import result

    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.setattr(result, "__file__", str(tmp_path / "a/lib/stepseg/cli/result.py"))
    monkeypatch.setenv("STEPSEG_COMMIT", "")
    assert result._git_sha() is None
    monkeypatch.setenv("STEPSEG_COMMIT", "0123abc")
    assert result._git_sha() == "0123abc"
