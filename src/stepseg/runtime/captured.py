"""Batches of one shape under one reduction as graphs, and what the host does between them.

A graph holds the same work whatever the images. So the walk of `stepseg.model` is cut where the
host has to learn how many tokens are left: before the first blocks, and after every exit. Each
graph begins by picking the rows that stayed, as many as its bucket has, runs blocks, head and exit
rule, and notes who stays. The host waits for the numbers, picks the next bucket, and replays.

Where numbers are prescribed (nothing merges, `top_k`, a budget) nobody waits: such stages are of
the same graph as what comes before them, without padding.

What one graph leaves for the next, and for the result, lies in tensors that are made once and
belong to nobody else (`Captured.held`). What graphs compute in between may be overwritten by the
next.

Not here: the map. It is one kernel after the last graph; who wants scores does without, and the
caller names its type.

Letters: B images, Y x X cells, T rows, P prefix rows of each image, M tokens, T0 tokens after
merging, C classes.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, cuda

from stepseg.board import Board
from stepseg.budget import within_budget
from stepseg.dcts.merge import MergeRule, anchors, build_layout, layout_of, merge_windows
from stepseg.heads.exit import BudgetExit
from stepseg.heads.linear import ExitHead
from stepseg.model import StepSegmenter
from stepseg.packed import PackedTokens, Segments, TokenLayout
from stepseg.reduction import Reduction
from stepseg.runtime.lane import Lane
from stepseg.runtime.rows import bounds, bucket, padded
from stepseg.segmentation import HeadOutput, Segmentation

Recorded = tuple[Segmentation, bool]
"""A result, and whether something had to be recorded for it."""
Steps = Generator[cuda.Event | None, None, Recorded]
"""Yields what to wait for before going on; None: only the result is missing."""


class Captured:
    """The graphs of one kind of batch, on one lane.

    Args:
        model: prepared for inference; its weights stay where they are.
        like: images of these batches, ``[B, 3, H, W]``.

    """

    def __init__(
        self, model: StepSegmenter, reduction: Reduction, lane: Lane, like: Tensor
    ) -> None:
        shown_B3HW = model.show(like, reduction.cell)
        reduction = within_budget(model, reduction, (shown_B3HW.shape[2], shown_B3HW.shape[3]))
        self.model, self.reduction, self.lane = model, reduction, lane
        self.size, side = (like.shape[2], like.shape[3]), reduction.cell or model.patch_size
        self.cell, self.batch, self.prefix = side, len(like), model.backbone.numbers.prefix
        self.grid = (-(-self.size[0] // side), -(-self.size[1] // side))
        self.blocks = (*reduction.exit_blocks, model.backbone.depth)
        self.own = model.class_source == "own"
        self.known = prescribed(reduction, self.grid)
        self.most = self._bucket([self.cells] * self.batch) + 2 * bucket(1)
        stages, known = range(len(self.blocks) + 1), len(self.known)
        self.parts = [tuple(stages[: known + 1]), *((stage,) for stage in stages[known + 1 :])]
        self.held: dict[str, Tensor] = {}
        self.positions: dict[int, Tensor] = {}
        if model.backbone.pos_embed is not None:
            windows = reduction.merge.windows if reduction.merge else ()
            fitting = tuple(window for window in (1, *windows) if window <= min(self.grid))
            self.positions = model.backbone.position_levels(self.grid, fitting)
        with torch.inference_mode(False):  # inference tensors could not be written outside of it
            self.images = torch.zeros_like(like)
            self.counts = [
                torch.zeros(self.batch + 1, dtype=torch.int32, pin_memory=like.is_cuda)
                for _ in self.blocks
            ]

    @property
    def cells(self) -> int:
        """Of an image."""
        return self.grid[0] * self.grid[1]

    def walk(self, images_B3HW: Tensor) -> Steps:
        """Segment a batch; the result is the caller's."""
        self.lane.begin()
        self.lane.write(self.images, images_B3HW)
        recorded = False
        lengths = [(tokens,) * self.batch for tokens in self.known]
        for part in self.parts:
            rows = 0 if part[0] <= len(self.known) else self._bucket(lengths[part[0] - 1])
            event, new = self.lane.run((self, part, rows), partial(self._run, part, rows))
            recorded |= new
            if part is not self.parts[-1]:
                yield event
                numbers = self.counts[part[-1]].diff().tolist()
                lengths.append(tuple(n - self.prefix * (part[-1] > 0) for n in numbers))
        yield None
        with self.lane.reading():
            return self._result(lengths), recorded

    @torch.no_grad()
    def _run(self, part: tuple[int, ...], rows: int) -> None:
        for stage in part:
            if stage == 0:
                self._merge()
            else:
                self._stage(stage, rows)

    def _merge(self) -> None:
        """Decide what merges."""
        model, rule = self.model, self.reduction.merge
        if rule is None:
            return
        shown_B3HW = model.show(self.images, self.reduction.cell)
        logits = model.policy_logits(shown_B3HW) if rule.asks_policy else {}
        for window, logits_BYX in logits.items():
            self._put(f"policy {window}", logits_BYX)
        window_BYX = model.windows(shown_B3HW, logits, rule)
        self._put("window", window_BYX)
        self._count(0, anchors(window_BYX).flatten(1).sum(1, dtype=torch.int32).cumsum(0))

    def _stage(self, stage: int, rows: int) -> None:
        """Run blocks, ask the head, and note who stays."""
        block, model = self.blocks[stage - 1], self.model
        head = cast(ExitHead, model.head(block))  # of the others `why_not` says why not
        tokens, board = self._begin(stage, rows)
        tokens = model.backbone.run_blocks(
            tokens, 0 if stage == 1 else self.blocks[stage - 2], block
        )
        seen = model.backbone.read(tokens)
        answers = head.answers(seen)
        board = board.write(block, seen, answers, head.temperature)
        mask_logits_TC, class_logits_BC2 = answers[-1]
        self._put(f"mask {stage}", board.heads[-1].mask_logits_T0C, self.most + 1)
        if class_logits_BC2 is not None:
            self._put(f"class {stage}", class_logits_BC2[: self.batch])
        assert board.presence_BC is not None
        self._put(f"presence {stage}", board.presence_BC, self.batch + 1)
        if board.presence_T0C is not None:
            self._put(f"own {stage}", board.presence_T0C, self.most + 1)
        if block != self.blocks[-1]:
            assert self.reduction.exit is not None
            p_TC = board.probabilities(seen, mask_logits_TC)
            keep_M = self.reduction.exit.keep(p_TC, seen, board.exits)
            board = board.release(seen, keep_M)
            self._leave(stage, tokens, tokens.keeping(keep_M))
        self._put(f"exit {stage}", board.exit_T0, self.most + 1)

    def _begin(self, stage: int, rows: int) -> tuple[PackedTokens, Board]:
        """The rows of a stage, and what the heads before have said."""
        if stage == 1:
            shown_B3HW = self.model.show(self.images, self.reduction.cell)
            layout = self._layout(rows)
            with self._constant_positions():
                tokens = self.model.embed(shown_B3HW, layout, self.reduction.merge)
            return tokens, Board.empty(layout, own_presence=self.own)
        segments = self._segments(stage, rows, self.prefix)
        picked_T = torch.nonzero_static(
            self.held[f"keep {stage - 1}"], size=segments.total, fill_value=self.most
        ).squeeze(1)
        picked = {
            name: self.held[f"{name} {stage - 1}"].index_select(0, picked_T)
            for name in ("values", "ids", "images", "places")
            if f"{name} {stage - 1}" in self.held
        }
        tokens = PackedTokens(
            picked["values"],
            segments,
            picked["ids"],
            picked["images"],
            self.prefix,
            picked.get("places"),
            root_T0=self.held[f"exit {stage - 1}"],  # only how many they are is asked
        )
        return tokens, self._board(stage - 1, segments.num_images)

    @contextmanager
    def _constant_positions(self) -> Iterator[None]:
        """Positions are resized once, and kept for as long as graphs read them."""
        answers = vars(self.model.backbone)
        answers["position_levels"] = lambda grid, windows: {w: self.positions[w] for w in windows}
        try:
            yield
        finally:
            del answers["position_levels"]

    def _leave(self, stage: int, tokens: PackedTokens, keep_T: Tensor) -> None:
        """Leave the rows of a stage to the next, which picks those that stay."""
        rows = self.most + 1  # the last one is what the padding is made of: nobody's
        self._put(f"values {stage}", tokens.values_TD, rows)
        self._put(f"ids {stage}", tokens.token_ids_T, rows, self.most)
        self._put(f"images {stage}", tokens.image_ids_T, rows, self.batch)
        if tokens.places_T2 is not None:
            self._put(f"places {stage}", tokens.places_T2, rows)
        keep_T = keep_T & (tokens.image_ids_T < self.batch)
        self._put(f"keep {stage}", F.pad(keep_T, (0, self.most - len(keep_T))))
        kept = keep_T.cumsum(0, dtype=torch.int32)
        ends = tokens.segments.cu_seqlens[1 : self.batch + 1].long()
        self._count(stage, F.pad(kept, (1, 0))[ends])

    def _count(self, stage: int, ends_B: Tensor) -> None:
        """Note where the rows of images end that go on from a stage, and tell the host."""
        self._put(f"cu {stage}", F.pad(ends_B, (1, 0)).int())
        if stage >= len(self.known):
            self.counts[stage].copy_(self.held[f"cu {stage}"], non_blocking=True)

    def _put(self, name: str, values: Tensor, rows: int = 0, fill: int = 0) -> None:
        """Write the first rows of what is held by a name; made at the first run, never recorded."""
        if name not in self.held:
            with torch.inference_mode(False):
                shape = (rows or len(values), *values.shape[1:])
                self.held[name] = values.new_full(shape, fill)
        self.held[name][: len(values)].copy_(values)

    def _layout(self, rows: int) -> TokenLayout:
        rule, device = self.reduction.merge, self.images.device
        if rule is None:
            return TokenLayout.full(self.batch, self.grid, device)
        layout = layout_of(self.held["window"], rule.windows, self._segments(1, rows, 0))
        self._put("cells", layout.cell_to_token_BYX)
        self._put("anchor", layout.anchor_T0, self.most)
        return layout

    def _segments(self, stage: int, rows: int, prefix: int) -> Segments:
        """Of the rows of a stage, the padding included where there is any."""
        if stage <= len(self.known):
            length = self.known[stage - 1] + prefix
            return Segments.uniform(self.batch, length, self.images.device)
        rows -= (self.batch + 1) * (self.prefix - prefix)
        lengths = bounds(self.batch, rows, self.cells, prefix)
        return padded(self.held[f"cu {stage - 1}"], lengths)

    def _bucket(self, lengths: Sequence[int]) -> int:
        """Rows for images of so many tokens, for prefix rows, and at least one of padding."""
        around = (self.batch + 1) * self.prefix
        rows = bucket(sum(lengths) + around + 1)
        full = rows - around == self.batch * self.cells  # to a layout: nothing has merged
        return rows + full * bucket(1)

    def _board(self, stage: int, images: int) -> Board:
        """What the heads have said up to a stage."""
        held = self.held
        said = HeadOutput(self.blocks[stage - 1], held[f"mask {stage}"], None, ())
        return Board(
            layout=cast(TokenLayout, None),  # of the result, which is made at the end
            own_presence=self.own,
            exit_T0=held[f"exit {stage}"],
            exits=stage,
            heads=(said,),
            presence_T0C=held.get(f"own {stage}"),
            presence_BC=held[f"presence {stage}"][:images],
        )

    def _result(self, lengths: Sequence[tuple[int, ...]]) -> Segmentation:
        """Copies of what is held: the next batch overwrites it."""
        held, last, rows = self.held, len(self.blocks), sum(lengths[0])

        def copied(tensor: Tensor | None, rows: int = rows) -> Tensor | None:
            return None if tensor is None else tensor[:rows].clone()

        return Segmentation(
            image_size=self.size,
            patch_size=self.cell,
            layout=self._layout_of_result(lengths[0]),
            heads=[
                HeadOutput(
                    block=block,
                    mask_logits_T0C=held[f"mask {stage}"][:rows].clone(),
                    class_logits_BC2=copied(held.get(f"class {stage}"), self.batch),
                    tokens_per_image=tokens,
                    exits=stage - 1,
                    temperature=self.model.head(block).temperature,
                )
                for stage, (block, tokens) in enumerate(zip(self.blocks, lengths, strict=True), 1)
            ],
            exit_T0=held[f"exit {last}"][:rows].clone(),
            presence_T0C=copied(held.get(f"own {last}")),
            presence_BC=held[f"presence {last}"][: self.batch].clone(),
            policy_logits={
                int(name.removeprefix("policy ")): logits_BYX.clone()
                for name, logits_BYX in held.items()
                if name.startswith("policy ")
            },
        )

    def _layout_of_result(self, lengths: tuple[int, ...]) -> TokenLayout:
        rule, held = self.reduction.merge, self.held
        if rule is None:
            return TokenLayout.full(self.batch, self.grid, self.images.device)
        return TokenLayout(
            cell_to_token_BYX=held["cells"].clone(),
            window_BYX=held["window"].clone(),
            anchor_T0=held["anchor"][: sum(lengths)].clone(),
            segments=Segments(held["cu 0"].clone(), lengths),
            windows=rule.windows,
        )


def prescribed(reduction: Reduction, grid: tuple[int, int]) -> list[int]:
    """Tokens of every image in the first stages, as far as images have no say in it."""
    rule, exit_ = reduction.merge, reduction.exit
    if rule is None:
        tokens = [grid[0] * grid[1]]
    elif type(rule) is not MergeRule or (rule.top_k is None and rule.by != "uniform"):
        return []
    else:  # of any image
        scores = {w: torch.zeros(1, grid[0] // w, grid[1] // w) for w in rule.windows}
        tokens = [build_layout(merge_windows(scores, rule, 1, grid), rule.windows).num_tokens]
    if type(exit_) is BudgetExit:  # others may have other numbers for every image
        for index in range(len(reduction.exit_blocks)):
            tokens.append(min(tokens[-1], exit_.budget(index)))
    return tokens
