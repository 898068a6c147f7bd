"""`--help` and `--version`: what a command takes, with what its YAML files say about it.

Only the groups and keys of that command, with the choices that stand on its command line. Nothing
here imports torch, so that the answer comes at once.
"""

import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stepseg import __version__
from stepseg.cli.comments import Comments, read_comments
from stepseg.cli.paths import config_dir

HELP, VERSION = ("--help", "-h"), "--version"
COLUMN = 36
"""Where comments start."""
FOOT = """
Also: -m with lists as values (a=1,2) runs every combination, hydra/launcher=gpu_pool, ray or
slurm spreads them; --cfg job prints the configuration; --config-dir adds a folder of configs;
--hydra-help tells what else Hydra takes.
"""


def answer(command: str, config_name: str, arguments: Sequence[str]) -> str | None:
    """What to print instead of running the command; None: it was not asked for help or version."""
    if VERSION in arguments:
        return f"stepseg {__version__} (torch {metadata.version('torch')})"
    if not set(HELP) & set(arguments):
        return None
    return help_text(command, config_name, arguments)


def help_text(command: str, config_name: str, arguments: Sequence[str] = ()) -> str:
    """Head, groups and keys of a command.

    Args:
        command: its name.
        config_name: its file in `conf/`.
        arguments: what else was typed: overrides change the choices, ``--config-dir`` adds some.

    """
    folders = [Path(config_dir()), *_more_folders(arguments)]
    overrides = [a for a in arguments if not a.startswith("-") and "=" in a]
    if folders[1:]:
        overrides.append(f"hydra.searchpath=[{','.join(f'file://{f}' for f in folders[1:])}]")
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir(), version_base="1.3"):
        cfg = compose(config_name, overrides, return_hydra_config=True)
    chosen = reversed(cfg.hydra.runtime.choices.items())  # Hydra notes the last one first
    choices = {group: name for group, name in chosen if not group.startswith("hydra/")}
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    own = read_comments(folders[0] / f"{config_name}.yaml")
    options = {
        group: _options(command, group, folders) for group in {k.partition("@")[0] for k in choices}
    }
    parts = [
        *own.header,
        "",
        "Groups (group=choice; * stands):",
        *_groups(choices, options, own),
        "",
        "Keys (key=value; what stands is shown):",
        *_keys(cfg, _meanings(own, choices, options), choices, options),
        *FOOT.splitlines(),
    ]
    return "\n".join(parts)


def _more_folders(arguments: Sequence[str]) -> list[Path]:
    """Folders given by ``--config-dir``, in either spelling."""
    given = [a.partition("=")[2] for a in arguments if re.match("(--config-dir|-cd)=", a)]
    follows = [b for a, b in pairwise(arguments) if a in ("--config-dir", "-cd")]
    return [Path(folder).resolve() for folder in (*given, *follows)]


def _options(command: str, group: str, folders: Sequence[Path]) -> dict[str, Comments]:
    """The choices of a group by name; where a header's lines begin with commands, only theirs."""
    found = {}
    for folder in folders:
        for file in sorted((folder / group).rglob("*.yaml")):
            comments = read_comments(file)
            lines = [line for line in comments.header if line.startswith("stepseg-")]
            named = re.findall(r"stepseg-\w+", " ".join(lines))
            nested = file.parent != folder / group  # of these, some are parts of others
            if command in named or not (named or nested):
                found[file.relative_to(folder / group).with_suffix("").as_posix()] = comments
    return found


def _groups(
    choices: Mapping[str, Any], options: Mapping[str, Mapping[str, Comments]], own: Comments
) -> Iterator[str]:
    for group, chosen in choices.items():
        if "@" in group:
            continue
        yield from _line(f"  {group}", own.groups.get(group, ""))
        for name, comments in options[group].items():
            mark = "*" if name == chosen else " "
            yield from _line(f"    {mark} {name}", _first(comments))


def _first(comments: Comments) -> str:
    """The first sentence about a choice."""
    text = " ".join(line for line in comments.header if not line.startswith("stepseg-"))
    return re.split(r"(?<=[^.\s])\.(?:\s|$)", text, maxsplit=1)[0]


def _meanings(
    own: Comments, choices: Mapping[str, Any], options: Mapping[str, Mapping[str, Comments]]
) -> dict[str, str]:
    """Comments by full key: of the chosen file, else of another choice of its group."""
    found = dict(own.keys)
    for group, chosen in choices.items():
        package = group.partition("@")[2].rpartition(".")[0]  # where several of a group stand
        if group in own.groups:
            found.setdefault(package or group, own.groups[group])
        known = options.get(group, {})
        for comments in (*([known[chosen]] if chosen in known else []), *known.values()):
            for key, comment in comments.keys.items():
                found.setdefault(f"{group.replace('/', '.')}.{key}", comment)
    return found


def _keys(
    cfg: DictConfig,
    meanings: Mapping[str, str],
    choices: Mapping[str, Any],
    options: Mapping[str, Mapping[str, Comments]],
) -> Iterator[str]:
    """The configuration as YAML with its comments; what was only placed elsewhere is one line."""
    placed = {}
    for group, chosen in choices.items():
        source, at, package = group.partition("@")
        if at and chosen in options[source]:
            placed[package] = _first(options[source][chosen])

    def walk(values: Mapping[str, Any], prefix: str, indent: str) -> Iterator[str]:
        for key, raw in values.items():
            path = f"{prefix}{key}"
            if str(key).startswith("_"):
                continue
            if path in placed:
                yield from _line(f"{indent}{key}: ...", placed[path])
            elif isinstance(raw, dict) and raw:
                yield from _line(f"{indent}{key}:", meanings.get(path, ""))
                yield from walk(raw, f"{path}.", f"{indent}  ")
            else:
                yield from _line(f"{indent}{key}: {_shown(cfg, path, raw)}", meanings.get(path, ""))

    yield from walk(OmegaConf.to_container(cfg, resolve=False), "", "  ")  # type: ignore[arg-type]


def _shown(cfg: DictConfig, path: str, raw: Any) -> str:
    """A value as one would type it, with references followed where that is possible by now."""
    try:
        value = OmegaConf.select(cfg, path)
    except OmegaConfBaseException:
        value = raw
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _line(left: str, comment: str) -> Iterator[str]:
    """A key or a choice with its meaning behind it, wrapped to the terminal."""
    if not comment:
        yield left
        return
    width = max(40, min(shutil.get_terminal_size((110, 24)).columns, 120) - COLUMN - 2)
    first, *rest = textwrap.wrap(comment, width)
    if len(left) > COLUMN - 2:
        yield left
        rest, left, first = [first, *rest], "", ""
    if first:
        yield f"{left:<{COLUMN}}# {first}"
    for line in rest:
        yield f"{'':<{COLUMN}}# {line}"
