"""Where the configs and the published figures lie.

A wheel carries `conf/` and `experiments/` inside the package; an editable install reads them from
the checkout, next to `src/`. The commands pass `config_dir()` to `hydra.main`, because an absolute
path is the one form that works from a console script and from `python -m` alike, and call
`register_own_experiments()` once, so that ``experiment=pond/train`` also reads
``$STEPSEG_EXPERIMENTS/experiment/pond/train.yaml``.

Not here: what the configs contain.
"""

import os
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

import stepseg

PACKAGE = Path(stepseg.__file__).resolve().parent
CONF = "STEPSEG_CONF"
OWN = "STEPSEG_EXPERIMENTS"


def config_dir() -> str:
    """Absolute path of the folder that holds `train.yaml` and its groups.

    `STEPSEG_CONF` decides if it is set. Raises `NotADirectoryError` if it names no folder, and
    `FileNotFoundError` if no configs are found at all.
    """
    chosen = os.environ.get(CONF)
    if chosen and not Path(chosen).is_dir():
        raise NotADirectoryError(
            f"{CONF}={chosen} is not a directory: point it at a folder like the repository's "
            f"conf/, or unset it to use the one that came with stepseg"
        )
    return str(Path(chosen).resolve() if chosen else _shipped("conf"))


def experiments_dir() -> str:
    """Absolute path of the folder with the published figures, results and pages."""
    return str(_shipped("experiments"))


def own_experiments() -> Path | None:
    """The folder `STEPSEG_EXPERIMENTS`, searched behind `conf/` as by ``--config-dir``.

    Raises `NotADirectoryError` if there is no folder `experiment` in it.
    """
    chosen = os.environ.get(OWN)
    if chosen and not (Path(chosen) / "experiment").is_dir():
        raise NotADirectoryError(
            f"{OWN}={chosen} has no folder experiment/: put the files there, so that "
            f"experiment=pond/train reads {Path(chosen) / 'experiment/pond/train.yaml'}"
        )
    return Path(chosen).resolve() if chosen else None


def experiments() -> list[str]:
    """Names for ``experiment=...``, shipped and own ones."""
    folders = [
        Path(folder) / "experiment" for folder in (config_dir(), own_experiments()) if folder
    ]
    return sorted(
        str(file.relative_to(folder).with_suffix(""))
        for folder in folders
        for file in folder.rglob("*.yaml")
    )


def register_own_experiments() -> None:
    """Let Hydra search `own_experiments()`; call it before `hydra.main` runs. Repeatable."""
    Plugins.instance().register(OwnExperiments)


class OwnExperiments(SearchPathPlugin):
    """Appends the user's own experiments to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra when it sets up its config sources."""
        folder = own_experiments()
        if folder is not None:
            search_path.append(OWN, f"file://{folder}")


def _shipped(name: str) -> Path:
    packaged, checkout = PACKAGE / name, PACKAGE.parents[1] / name
    for folder in (packaged, checkout):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"stepseg's {name}/ is neither in the package ({packaged}) nor in a checkout ({checkout}): "
        f"reinstall stepseg"
    )
