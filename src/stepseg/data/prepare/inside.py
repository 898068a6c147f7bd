"""Data folders may come from others, with links in them: nothing is written through one."""

from pathlib import Path


class OutsideError(ValueError):
    """A path within a folder that leads out of it."""


def inside(root: Path, path: Path) -> Path:
    """The path, if what is written there stays below `root`, links and ``..`` followed.

    Raises:
        OutsideError: it does not; names where it leads.
    """
    leads = path.resolve()
    if not leads.is_relative_to(root.resolve()):
        raise OutsideError(
            f"{path} leads to {leads}, outside {root}: nothing was written. Remove the link; to "
            f"keep the data elsewhere give that folder as ROOT."
        )
    return path
