"""`stepseg-dashboard`: a W&B workspace with STEP's plots, saved into a project.

stepseg-dashboard --entity me --project stepseg
stepseg-dashboard --entity me --project stepseg --dry-run   # print it as JSON, without network
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from stepseg import __version__
from stepseg.lit.tracking.dashboard import build_workspace


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0 fine, 1 not saved, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        workspace = build_workspace(options.entity, options.project, options.name)
        if options.dry_run:
            print(json.dumps(as_json(workspace), indent=2))
        else:
            _save(workspace)
    except ValueError as error:
        print(f"stepseg-dashboard: error: {error}", file=sys.stderr)
        return 1
    return 0


def as_json(workspace: Any) -> dict[str, Any]:
    """The workspace as W&B stores it."""
    return json.loads(workspace._to_model().model_dump_json(by_alias=True, exclude_none=True))


def _save(workspace: Any) -> None:
    """Upload; every failure becomes one `ValueError`."""
    import wandb

    try:
        if not wandb.login(prompt=False, verify=False):
            raise ValueError("there is no API key: run `wandb login`, or set WANDB_API_KEY")
        workspace.save()
    except ValueError:
        raise
    except Exception as error:  # the library passes on whatever its HTTP client raises
        raise ValueError(
            f"W&B did not take the workspace {workspace.entity}/{workspace.project} "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}): is the "
            f"server reachable, and does the project exist? --dry-run needs no network"
        ) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stepseg-dashboard", description="Save a W&B workspace with the plots of STEP."
    )
    parser.add_argument("--entity", required=True, help="user or team that owns the project")
    parser.add_argument("--project", default="stepseg")
    parser.add_argument("--name", default="STEP", help="of the saved view")
    parser.add_argument("--dry-run", action="store_true", help="print it, do not save it")
    parser.add_argument("--version", action="version", version=f"stepseg {__version__}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
