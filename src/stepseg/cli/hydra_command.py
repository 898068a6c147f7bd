"""`hydra.main` for our commands: a mistyped override ends in one line with what may be meant.

Hydra prints such errors over many lines, and without the nearest name; what is added at the root
it accepts whatever it is called. Errors of the job itself are `stepseg.cli.ending.run_command`'s.
"""

import functools
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gpu_pool.errors import JobFailed
from hydra_plugins.stepseg_launcher.launcher import register_launchers
from stepseg.cli.ending import run_command
from stepseg.cli.help import answer
from stepseg.cli.paths import config_dir, experiments, register_own_experiments
from stepseg.cli.reduction_file import GROUP, is_file_name, register_reduction_files
from stepseg.cli.typed import key_of
from stepseg.plain_types import check_keys, is_below, nearest

Task = Callable[[DictConfig], Any]


class UnknownRootKeyError(HydraException, ValueError):
    """A key that no command reads: bad input of a job, and of the sweep that it belongs to."""


def hydra_command(
    command: str, *, config_name: str, renamed: Mapping[str, str] | None = None
) -> Callable[[Task], Callable[..., Any]]:
    """Decorate a function of a configuration as a command.

    Args:
        command: its name, for messages.
        config_name: its file in `conf/`.
        renamed: keys by what users may type instead, where Hydra reads that as something else.

    """
    register_launchers()
    register_own_experiments()
    register_reduction_files()

    def decorate(task: Task) -> Callable[..., Any]:
        @functools.wraps(task)
        def checked(cfg: DictConfig) -> Any:
            def job() -> Any:
                check_root(cfg, config_name)
                check_words(HydraConfig.get().overrides.task)
                return task(cfg)

            return run_command(command, job)

        start = hydra.main(config_path=config_dir(), config_name=config_name, version_base="1.3")
        run = start(checked)

        @functools.wraps(run)
        def main(*args: Any) -> Any:
            # Hydra then hands errors on instead of printing them.
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")
            sys.argv[1:] = [as_experiment(argument) for argument in sys.argv[1:]]
            for typed, key in (renamed or {}).items():
                sys.argv[1:] = [re.sub(rf"^{typed}=", f"{key}=", a) for a in sys.argv[1:]]
            with _one_line_errors(command, config_name):
                said = None if args else answer(command, config_name, sys.argv[1:])
                if said is None:
                    return run(*args)
                _print(said)

        return main

    return decorate


def _print(text: str) -> None:
    """Print, also to somebody who reads the first lines only, as `head` does."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own flush


@contextmanager
def _one_line_errors(command: str, config_name: str) -> Iterator[None]:
    """What goes wrong before a job or around the jobs of a sweep, told before the exit."""
    try:
        yield
    except JobFailed as error:  # the request was fine: not the code of bad input
        print(f"{command}: {error}", file=sys.stderr)
        sys.exit(1)
    except (HydraException, OmegaConfBaseException) as error:
        message = composition_message(error, config_name)
    except OSError as error:
        if error.filename is None or isinstance(error, ConnectionError):
            raise
        message = f"{error.strerror}: {error.filename}"
    else:
        return
    print(f"{command}: error: {message}", file=sys.stderr)
    sys.exit(2)


def as_experiment(argument: str) -> str:
    """``+experiments=NAME``, or with a plus too many, as ``experiment=NAME``."""
    return re.sub(r"^\+*experiments?=", "experiment=", argument)


def check_root(cfg: DictConfig, config_name: str) -> None:
    """Refuse keys at the root that no command reads; Hydra adds them for ``+key=value``.

    Raises `UnknownRootKeyError`, which names the key.
    """
    primary = OmegaConf.load(Path(config_dir()) / f"{config_name}.yaml")
    groups = [str(key) for entry in primary.defaults if entry != "_self_" for key in entry]
    places = [
        group.split("@")[-1].split(".")[0] for group in groups if " " not in group
    ]  # override
    known = {*map(str, primary), *places} - {"defaults", "hydra", "experiment"}
    try:
        check_keys("", map(str, cfg), known)
    except ValueError as error:
        raise UnknownRootKeyError(f"{error}; keys of your own: +user.name=value") from None


def check_words(overrides: Sequence[str]) -> None:
    """Refuse yes, no, on and off, which YAML 1.2 takes for text, and Python for true.

    Raises:
        ValueError: names the key and what to type.

    """
    for typed in overrides:
        key, _, value = typed.partition("=")
        if value.lower() in ("yes", "no", "on", "off") and not is_below(key_of(typed), ["user"]):
            said = "true" if value.lower() in ("yes", "on") else "false"
            raise ValueError(f"{typed} is text, and neither true nor false: type {key}={said}")


def composition_message(error: Exception, config_name: str) -> str:
    """One line about an override that Hydra refuses."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        if is_file_name(error.missing_cfg_file):
            return f"reduction={error.missing_cfg_file.removeprefix(GROUP)}: there is no such file"
        group, _, choice = error.missing_cfg_file.rpartition("/")
        options = list(error.options or [])
        if group.split("/")[0] == "experiment":
            group, _, choice = error.missing_cfg_file.partition("/")
            options = experiments()
        return f"{group}={choice}: there is no such choice{nearest(choice, options)}"
    text = " ".join(str(error).split())
    if isinstance(error, OverrideParseException):
        reason = str(error.message).splitlines()[0]
        return f"{error.override}: this cannot be read ({reason}); is a bracket or a quote missing?"
    refused = re.match(r"Could not override '([^']+)'", text)
    if refused:
        key = refused[1]
        return f"unknown key {key}{nearest(key, _keys(config_name))}"
    group_refused = re.match(r"Could not override '([^@']+)'. No match in the defaults list", text)
    if group_refused:
        return f"unknown group {group_refused[1]}"
    cause = " ".join(str(error.__cause__).split()) if error.__cause__ else ""
    return text if not cause or cause in text else f"{text} ({cause})"


def _keys(config_name: str) -> Iterator[str]:
    """All keys of a command's configuration with the groups that were chosen."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir(), version_base="1.3"):
        try:
            cfg = compose(config_name, [typed for typed in sys.argv[1:] if _chooses_group(typed)])
        except HydraException:  # a sweep, or a choice from somewhere else
            cfg = compose(config_name)
        yield from _flat(OmegaConf.to_container(cfg, resolve=False))


def _chooses_group(override: str) -> bool:
    group, equals, _ = override.lstrip("+").partition("=")
    return bool(equals) and (Path(config_dir()) / group.partition("@")[0]).is_dir()


def _flat(values: Any, prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
