"""A W&B workspace for STEP, defined in code: accuracy against cost first, then why.

Needs the extra `stepseg[dashboard]`; building it needs no network, saving does.
"""

from types import ModuleType
from typing import Any

SYSTEMS = ("dense", "dCTS", "STEP")


def build_workspace(entity: str, project: str, name: str = "STEP") -> Any:
    """The workspace, not saved yet.

    Args:
        entity: user or team that owns the project.

    Raises:
        ValueError: the extra is not installed.

    """
    ws, wr = _library()
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            ws.Section(name=title, panels=panels, is_open=True)
            for title, panels in _sections(wr).items()
        ],
        settings=ws.WorkspaceSettings(x_axis="trainer/global_step"),
    )


def _library() -> tuple[ModuleType, ModuleType]:
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise ValueError(
            f"the dashboard needs wandb-workspaces ({error}): pip install 'stepseg[dashboard]'"
        ) from error
    return ws, wr


def _sections(wr: Any) -> dict[str, list[Any]]:
    return {
        "Accuracy and cost": _cost(wr),
        "Where tokens go": _tokens(wr),
        "Validation": _validation(wr),
        "Training": _training(wr),
        "Pictures": [
            wr.MediaBrowser(
                title="the same images in all runs", media_keys=["val/pictures"], num_columns=4
            )
        ],
    }


def _cost(wr: Any) -> list[Any]:
    def scatter(x: str, title: str, system: str = "") -> Any:
        prefix = f"final/{system}/" if system else "final/"
        return wr.ScatterPlot(
            title=f"mIoU against {title}{f', {system}' if system else ''}",
            x=wr.SummaryMetric(f"{prefix}{x}"),
            y=wr.SummaryMetric(f"{prefix}mIoU"),
        )

    columns = [
        wr.ParallelCoordinatesPlotColumn(metric=metric, display_name=shown)
        for metric, shown in (
            (wr.Config("reduction.exit.threshold"), "exit threshold"),
            (wr.SummaryMetric("final/tokens_in"), "tokens after merging"),
            (wr.SummaryMetric("final/tokens_out"), "tokens at the end"),
            (wr.SummaryMetric("final/gmacs"), "GMACs"),
            (wr.SummaryMetric("final/mIoU"), "mIoU"),
        )
    ]
    return [
        scatter("gmacs", "GMACs"),
        scatter("images_per_s", "images/s"),
        *(scatter("gmacs", "GMACs", system) for system in SYSTEMS),
        wr.ParallelCoordinatesPlot(title="thresholds, tokens, accuracy", columns=columns),
        wr.WeavePanelSummaryTable(table_name="final/systems"),
    ]


def _tokens(wr: Any) -> list[Any]:
    def lines(split: str) -> list[Any]:
        return [
            _curve(wr, f"{split}: tokens of each stage", f"{split}/tokens_stage_.*"),
            _curve(wr, f"{split}: superpatches by size", f"{split}/superpatches_.*"),
        ]

    return [*lines("val"), *lines("train"), _curve(wr, "val: GMACs", "val/gmacs")]


def _validation(wr: Any) -> list[Any]:
    figures = ("mIoU", "mAcc", "aAcc", "fwIoU", "boundary_IoU")
    return [
        *(_curve(wr, name, f"val/{name}") for name in figures),
        _curve(wr, "policy: average precision by window", "val/(AP_.*|mAP)"),
        wr.WeavePanelSummaryTable(table_name="val/per_class_IoU"),
    ]


def _training(wr: Any) -> list[Any]:
    return [
        _curve(wr, "loss", "train/loss"),
        _curve(wr, "policy loss", "(train|val)/policy"),
        _curve(wr, "decoder", "train/decoder/.*"),
        _curve(wr, "exit heads", "train/exit_head_.*"),
        _curve(wr, "learning rates", "lr.*"),
    ]


def _curve(wr: Any, title: str, pattern: str) -> Any:
    """A line plot over optimiser steps: of one metric, or of those that match a pattern."""
    if pattern.replace("/", "").replace("_", "").isalnum():
        return wr.LinePlot(title=title, x="trainer/global_step", y=[pattern])
    return wr.LinePlot(title=title, x="trainer/global_step", metric_regex=pattern)
