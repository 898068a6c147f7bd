"""What goes wrong with a sweep, as errors that Hydra prints without a traceback."""

from hydra.errors import CompactHydraException


class SweepError(CompactHydraException, ValueError):
    """A sweep that cannot run as asked; raised before any job starts."""


class JobFailed(CompactHydraException):
    """One job of a sweep failed; a sweeper may go on without it."""
