"""``reduction=<file.yaml>`` for Hydra: what `stepseg-tune` wrote stands beside `conf/reduction/`.

A source of configs on Hydra's search path, so that sweeps, processes that a run starts and
``reduction@systems.mine=<file>`` read files, too.
"""

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

GROUP = "reduction/"
SCHEME = "stepseg-reduction"


class ReductionFileError(HydraException):
    """The file is no reduction."""


class ReductionFiles(ConfigSource):
    """Files anywhere, as choices of the group `reduction`."""

    @staticmethod
    def scheme() -> str:
        """As it stands in the search path."""
        return SCHEME

    def available(self) -> bool:
        """Always: it is no place."""
        return True

    def is_group(self, config_path: str) -> bool:
        """None of its own."""
        return False

    def is_config(self, config_path: str) -> bool:
        """Whether it is a file, and a choice of our group."""
        return is_file_name(config_path) and _file(config_path).is_file()

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Files are not listed."""
        return []

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a file, checked."""
        from stepseg.reduction_file import read_values  # brings torch: not needed for --help

        try:
            values = read_values(_file(config_path))
        except ValueError as error:
            raise ReductionFileError(str(error)) from error
        return ConfigResult(
            provider=self.provider,
            path=self.full_path(),
            config=OmegaConf.create(values),
            header={"package": None},
        )


class ReductionFilesOnPath(SearchPathPlugin):
    """Puts them behind the shipped choices."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra when it sets up its config sources."""
        search_path.append("stepseg", f"{SCHEME}://files")


def register_reduction_files() -> None:
    """Let Hydra read such files; call it before `hydra.main` runs. Repeatable."""
    Plugins.instance().register(ReductionFiles)
    Plugins.instance().register(ReductionFilesOnPath)


def is_file_name(choice: str) -> bool:
    """Whether a choice of a group names a file: ``reduction/out/reduction.yaml``."""
    return choice.startswith(GROUP) and choice.endswith(".yaml")


def _file(config_path: str) -> Path:
    return Path(config_path.removeprefix(GROUP))
