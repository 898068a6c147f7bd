"""From points without a row to rows: passes over the data, each for many points at once."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stepseg.cli.evaluate.setting import Setting
from stepseg.cli.result import Result
from stepseg.files.confusion import write_confusion
from stepseg.grid.points import Point
from stepseg.grid.store import GridStore, point_digest, point_key
from stepseg.lit.callbacks.partial_counts import SnapshotCallback
from stepseg.report.pareto import pareto_front
from stepseg.telling import tell


class GridRun:
    """One grid on one checkpoint.

    Args:
        setting: what is evaluated, on its test images.
        store: of finished rows.
        points: of the grid.
        output: folder of the result.
        predictions: folder for label maps; None: not written.

    """

    def __init__(
        self,
        setting: Setting,
        store: GridStore,
        points: Sequence[Point],
        output: Path,
        predictions: Path | None = None,
    ) -> None:
        self.trainer, self.module = setting.trainer, setting.module
        self.datamodule, self.store, self.points = setting.datamodule, store, list(points)
        self.output, self.predictions = output, predictions
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        [self.snapshot] = [c for c in callbacks if isinstance(c, SnapshotCallback)]

    def run(self, points_per_pass: int | None, result: Result | None) -> list[dict[str, Any]]:
        """Evaluate what has no row yet.

        Args:
            points_per_pass: limit of points that are evaluated at once; None: no limit.
            result: gets the finished rows after every pass; None: nobody.

        Returns:
            One row per point.

        """
        start, cpu_start = time.perf_counter(), time.process_time()
        reused_rows = len(self.rows())
        reused_images = 0
        if reused_rows:
            self._say(f"{reused_rows} of {len(self.points)} points are finished")
        for chosen in self.store.passes(self.points, points_per_pass):
            reused_images += self._evaluate(chosen)
            if result is not None:
                result.update({"rows": self.rows()})
                result.save()
        rows = self.rows()
        if result is None:
            return rows
        grid = {
            "points": len(rows),
            "reused_rows": reused_rows,
            "reused_images": reused_images,
            "seconds": round(time.perf_counter() - start, 3),
            "cpu_seconds": round(time.process_time() - cpu_start, 3),
        }
        result.update({**self.store.rows[point_key(self.points[-1])], "rows": rows, "grid": grid})
        return rows

    def rows(self) -> list[dict[str, Any]]:
        """Of the points that are finished, in the order of the grid."""
        finished = [
            {
                "name": point.name,
                "system": point.label,
                "reduction": point.values,
                **point.columns(),
                **self.store.rows[point_key(point)],
            }
            for point in self.points
            if point_key(point) in self.store.rows
        ]
        best = pareto_front([(row["gmacs_mean"], row["mIoU"]) for row in finished])
        return [{**row, "pareto": index in best} for index, row in enumerate(finished)]

    def _evaluate(self, points: Sequence[Point]) -> int:
        """One pass over the data; returns how many images an earlier run has counted."""
        self.module.evaluate_with([point.build() for point in points])
        self.module.predictions = [self._folder(point) for point in points if self.predictions]
        self.snapshot.snapshots = self.store.snapshots(points)
        try:
            self.trainer.test(self.module, self.datamodule, verbose=False)
        except (KeyboardInterrupt, SystemExit):
            self._say("run the same command with the same hydra.run.dir to continue")
            raise
        rows = [
            {**row, "confusion": self._write_confusion(index, point)}
            for index, (point, row) in enumerate(zip(points, self.module.results, strict=True))
        ]
        self.store.add(dict(zip(map(point_key, points), rows, strict=True)))
        if self.trainer.is_global_zero:
            self.snapshot.snapshots.clear()
        return len(self.snapshot.earlier.images) if self.snapshot.earlier else 0

    def _write_confusion(self, index: int, point: Point) -> str:
        """The confusion matrix of a point as a file beside the result; returns its place there."""
        place = f"confusion/{point_digest(point)}.csv"
        if self.trainer.is_global_zero:
            counts = self.module.evaluator.confusions()[index]
            write_confusion(self.output / place, counts, self.module.spec.classes)
        return place

    def _folder(self, point: Point) -> Path:
        assert self.predictions is not None
        if len(self.points) == 1:
            return self.predictions
        return self.predictions / f"{self.points.index(point):03d}"

    def _say(self, line: str) -> None:
        if self.trainer.is_global_zero:
            tell(line)
