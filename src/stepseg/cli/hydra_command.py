"""`hydra.main` for our commands: a mistyped override ends in one line with what may be meant.

Hydra prints such errors over many lines, and without the nearest name. Errors of the job itself
are `stepseg.cli.config.run_command`'s.
"""

import functools
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gpu_pool.errors import JobFailed
from stepseg.cli.paths import config_dir, register_experiments
from stepseg.plain_types import nearest

Task = Callable[[DictConfig], Any]


def hydra_command(command: str, *, config_name: str) -> Callable[[Task], Callable[..., Any]]:
    """Decorate a function of a configuration as a command.

    Args:
        command: its name, for messages.
        config_name: its file in `conf/`.

    """
    register_experiments()

    def decorate(task: Task) -> Callable[..., Any]:
        run = hydra.main(config_path=config_dir(), config_name=config_name, version_base="1.3")(
            task
        )

        @functools.wraps(run)
        def main(*args: Any) -> Any:
            # Hydra then hands errors on instead of printing them.
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")
            try:
                return run(*args)
            except JobFailed as error:  # the request was fine: not the code of bad input
                print(f"{command}: {error}", file=sys.stderr)
                sys.exit(1)
            except (HydraException, OmegaConfBaseException) as error:
                message = composition_message(error, config_name)
            except OSError as error:
                if error.filename is None or isinstance(error, ConnectionError):
                    raise
                message = f"{error.strerror}: {error.filename}"
            print(f"{command}: error: {message}", file=sys.stderr)
            sys.exit(2)

        return main

    return decorate


def composition_message(error: Exception, config_name: str) -> str:
    """One line about an override that Hydra refuses."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        options = error.options or []
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
    """All keys of a command's configuration as it stands."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir(), version_base="1.3"):
        yield from _flat(OmegaConf.to_container(compose(config_name), resolve=False))


def _flat(values: Any, prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
