"""What a command tells: the same lines to the terminal and, with their time, into its log file.

The log file is the one of Hydra's job logging (`conf/hydra/job_logging/file.yaml`), which shows
nothing but warnings in the terminal; where nothing is configured, there is the terminal alone.
"""

import io
import logging
import sys

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from tqdm import tqdm

from stepseg.masking import masked_text

_LOG = logging.getLogger("stepseg")


MOST = 1000
"""Columns of the widest table."""


def counted(number: int, word: str) -> str:
    """``1 thread``, ``2 threads``."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def tell(line: str) -> None:
    """Tell one line, without secrets; progress bars make room for it."""
    line = masked_text(line)
    tqdm.write(line, file=sys.stderr)
    _LOG.info(line)


def show_table(table: Table) -> None:
    """Show a table on standard output; as wide as it likes where no terminal is in its way."""
    wide = Console(width=MOST)
    width = Measurement.get(wide, wide.options, table).maximum
    console = Console()
    (console if console.is_terminal else Console(width=width)).print(table)
    text = io.StringIO()
    Console(file=text, width=width).print(table)
    _LOG.info("\n%s", text.getvalue().rstrip())
