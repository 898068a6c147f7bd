"""Where the configs lie, and how Hydra finds the experiments.

A wheel carries `conf/` and `experiments/` inside the package; an editable install reads them from
the checkout, next to `src/`. The commands pass `config_dir()` to `hydra.main`, because an absolute
path is the one form that works from a console script and from `python -m` alike, and call
`register_experiments()` once, so that ``+experiments=camvid/train`` reads
``experiments/camvid/train.yaml``.

Not here: what the configs contain.
"""

import os
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

import stepseg

PACKAGE = Path(stepseg.__file__).resolve().parent
GROUP = "experiments"


def config_dir() -> str:
    """Absolute path of the folder that holds `train.yaml` and its groups.

    `STEPSEG_CONF` decides if it is set. Raises `NotADirectoryError` if it names no folder, and
    `FileNotFoundError` if no configs are found at all.
    """
    return str(_find("conf", "STEPSEG_CONF"))


def experiments_dir() -> str:
    """Absolute path of the folder with the experiments; `STEPSEG_EXPERIMENTS` decides if set."""
    return str(_find(GROUP, "STEPSEG_EXPERIMENTS"))


def register_experiments() -> None:
    """Make ``+experiments=...`` known to Hydra; call it before `hydra.main` runs. Repeatable."""
    Plugins.instance().register(ExperimentsSource)
    Plugins.instance().register(ExperimentsSearchPath)


def _find(name: str, variable: str) -> Path:
    chosen = os.environ.get(variable)
    if chosen:
        if not Path(chosen).is_dir():
            raise NotADirectoryError(
                f"{variable}={chosen} is not a directory: point it at a folder like the "
                f"repository's {name}/, or unset it to use the one that came with stepseg"
            )
        return Path(chosen).resolve()
    packaged, checkout = PACKAGE / name, PACKAGE.parents[1] / name
    for folder in (packaged, checkout):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"stepseg's {name}/ is neither in the package ({packaged}) nor in a checkout ({checkout}): "
        f"reinstall stepseg, or set {variable} to the folder"
    )


class ExperimentsSource(ConfigSource):
    """Shows the experiments to Hydra as the one config group `experiments`.

    Hydra takes every folder below a search path for a config group, and lists them all for
    ``--help``. The parent of `experiments/` is the checkout or the installed package, so it cannot
    be a search path itself: ``--help`` would walk `.git`, `.venv` and our own modules.
    """

    @staticmethod
    def scheme() -> str:
        """The prefix of this source in Hydra's search path."""
        return "stepseg-experiments"

    def available(self) -> bool:
        """Whether the folder exists."""
        return Path(self.path).is_dir()

    def is_group(self, config_path: str) -> bool:
        """Whether a config path such as ``experiments/camvid`` is a folder."""
        file = self._locate(config_path)
        return config_path == "" or (file is not None and file.is_dir())

    def is_config(self, config_path: str) -> bool:
        """Whether a config path such as ``experiments/camvid/train`` is a YAML file."""
        file = self._locate(self._normalize_file_name(config_path))
        return file is not None and file.is_file()

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Names of the groups and configs directly below a config path, without `.yaml`."""
        folder = self._locate(config_path)
        names = [GROUP] if folder is None else [file.name for file in folder.iterdir()]
        found: list[str] = []
        for name in names:
            self._list_add_result(found, f"{config_path}/{name}".lstrip("/"), name, results_filter)
        return sorted(found)

    def load_config(self, config_path: str) -> ConfigResult:
        """Read one YAML file with its ``# @package`` header."""
        file = self._locate(self._normalize_file_name(config_path))
        if file is None or not file.is_file():
            raise ConfigLoadError(f"Config not found: {file or config_path}")
        return ConfigResult(
            provider=self.provider,
            path=self.full_path(),
            config=OmegaConf.load(file),
            header=self._get_header_dict(file.read_text(encoding="utf-8")),
        )

    def _locate(self, config_path: str) -> Path | None:
        """The file or folder behind a config path; None for paths of other groups."""
        group, _, rest = config_path.partition("/")
        return Path(self.path) / rest if group == GROUP else None


class ExperimentsSearchPath(SearchPathPlugin):
    """Appends the experiments to Hydra's search path, behind `conf/`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra when it sets up its config sources."""
        search_path.append("stepseg", f"{ExperimentsSource.scheme()}://{experiments_dir()}")
