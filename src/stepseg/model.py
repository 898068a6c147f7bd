"""STEP as one model: policy -> merge -> (blocks -> head -> exit)* -> blocks -> decoder -> map.

The control flow of "Where Do Tokens Go?" (arXiv 2509.14165), Figure 2. Every system of the paper is
a `Reduction` of the same weights: the dense baseline merges nothing and lets nobody leave, CTS and
dCTS only merge, DToP only exits, STEP does both; ToMe, ALGM and Cropr act inside the blocks. What
the parts compute lives with the parts.
`StepSegmenter.walk` takes any number of reductions; `stepseg.grid` brings many.

Host synchronisations: one after merging (`stepseg.dcts.merge.build_layout`), one per active exit
(`PackedTokens.select`) and one per block that merges by a threshold (`PackedTokens.merge`).
Everything else only queues work.

Letters: B images, H x W pixels, Y x X cells of the patch grid, T active tokens, T0 tokens after
merging, C classes.
"""

from collections.abc import Mapping
from typing import Self, cast

import torch
from torch import Tensor, nn

from stepseg.board import Board
from stepseg.budget import within_budget
from stepseg.dcts.edges import edge_density
from stepseg.dcts.merge import MergeRule, build_layout, merge_windows, shuffle_windows
from stepseg.dcts.policy import OraclePolicy, PolicyNetwork
from stepseg.group import Group
from stepseg.heads.atm import AtmHead
from stepseg.heads.cascade import check_cascade
from stepseg.heads.eomt import EomtHead
from stepseg.heads.linear import ExitHead
from stepseg.merging.rules import Cropr
from stepseg.merging.scorer import TokenScorer
from stepseg.ops.padding import pad_to_multiple
from stepseg.ops.query_masks import QueryMasks
from stepseg.packed import PackedTokens, TokenLayout
from stepseg.reduction import Reduction
from stepseg.segmentation import HeadOutput, Segmentation
from stepseg.vit.patch_embed import resize_cells
from stepseg.vit.staged import StagedViT

__all__ = ["HeadOutput", "Reduction", "Segmentation", "StepSegmenter"]


class StepSegmenter(nn.Module):
    """The segmenter, composed of finished parts.

    Args:
        backbone: the encoder.
        decoder: the head after the last block; that of EoMT has queries in the blocks before.
        exit_heads: heads by the block (counted from 1) whose output they read. Training runs and
            supervises all of them; which ones let tokens leave is up to the `Reduction`.
        policy: scores windows for merging; None: no reduction may merge.
        reduction: the reduction that `forward` uses unless told otherwise.
        scorers: of `Cropr`, by the block before which they stand.
        class_source: whose class probabilities enter the map: ``final``, the decoder's for all
            cells, as in DToP, or ``own``, those of the head at which a token left.

    """

    def __init__(
        self,
        *,
        backbone: StagedViT,
        decoder: AtmHead | EomtHead,
        exit_heads: Mapping[int, ExitHead] | None = None,
        policy: PolicyNetwork | OraclePolicy | None = None,
        reduction: Reduction | None = None,
        scorers: Mapping[int, TokenScorer] | None = None,
        class_source: str = "final",
    ) -> None:
        super().__init__()
        if class_source not in ("final", "own"):
            raise ValueError(f"class_source must be 'final' or 'own', got {class_source!r}")
        self.policy, self.backbone, self.decoder = policy, backbone, decoder
        self.exit_heads = nn.ModuleDict(
            {str(block): head for block, head in sorted((exit_heads or {}).items())}
        )
        self.scorers = nn.ModuleDict({str(b): scorer for b, scorer in (scorers or {}).items()})
        self.class_source = class_source
        for block in self.exit_head_blocks:
            if not 1 <= block < backbone.depth:
                raise ValueError(
                    f"exit block {block} is outside 1..{backbone.depth - 1}: the backbone has "
                    f"{backbone.depth} blocks and the decoder follows the last"
                )
        check_cascade(decoder.earlier_blocks, backbone.depth, self.exit_head_blocks)
        if isinstance(decoder, EomtHead):
            decoder.check_exits(exit_heads or {})
        elif decoder.among_all and self.exit_head_blocks:
            raise ValueError(
                f"SegViT's own decoder answers for all tokens at once, and exit heads after blocks "
                f"{self.exit_head_blocks} let some leave: choose a reduction without exits (dcts)"
            )
        self.reduction = reduction or Reduction()
        self.check(self.reduction)

    @property
    def exit_head_blocks(self) -> list[int]:
        """The blocks that have an exit head, ascending."""
        return [int(block) for block in self.exit_heads]

    @property
    def num_classes(self) -> int:
        """C."""
        return self.decoder.num_classes

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.backbone.patch_size

    def check(self, reduction: Reduction) -> None:
        """Refuse a reduction that these parts cannot carry out.

        Raises:
            ValueError: an exit without a head, windows without scores, merging without a policy.

        """
        missing = set(reduction.exit_blocks) - set(self.exit_head_blocks)
        if missing:
            raise ValueError(
                f"no exit head after block(s) {sorted(missing)}; this model has heads after "
                f"{self.exit_head_blocks} (and {self.backbone.depth} blocks)"
            )
        if reduction.inside is not None:
            self._check_inside(reduction)
        if isinstance(self.policy, OraclePolicy) and reduction.cell not in (None, self.patch_size):
            raise ValueError(
                "the oracle policy merges by labels as they are: reduction.input.cell=null leaves "
                "the image in its size"
            )
        if reduction.merge is None or not reduction.merge.asks_policy:
            return
        if self.policy is None:
            raise ValueError(
                f"merging windows {reduction.merge.windows} needs a policy network, this model has "
                f"none: choose a policy, or a reduction without merging; stepseg-accelerate gives "
                f"a finished model a policy"
            )
        unknown = set(reduction.merge.windows) - set(self.policy.windows)
        if unknown:
            raise ValueError(
                f"the policy scores windows {self.policy.windows}, not {sorted(unknown)}"
            )

    def _check_inside(self, reduction: Reduction) -> None:
        rule = reduction.inside
        assert rule is not None
        rule.check(self.backbone.depth, reduction.exit_blocks)
        if self.decoder.earlier_blocks:
            raise ValueError(
                f"{rule.name} changes tokens between the blocks that a cascade reads: train a "
                f"decoder with heads.cascade=null"
            )
        if self.decoder.among_all:
            raise ValueError(
                f"{rule.name} acts inside the blocks, which an EoMT decoder and SegViT's own "
                f"cannot follow: merge before them (reduction=dcts, uniform or smaller)"
            )
        if isinstance(rule, Cropr):
            unscored = {*map(str, rule.places(self.backbone.depth))} - {*self.scorers}
            if unscored:
                raise ValueError(
                    f"Cropr needs scorers before block(s) {sorted(map(int, unscored))}, which are "
                    f"trained: this model has them before {sorted(map(int, self.scorers))}; train "
                    f"one with reduction=cropr"
                )

    def prepare_for_inference(self) -> Self:
        """Set evaluation mode for good, in place; no gradients, and the weights are final.

        What the policy can fold is folded, and what no image enters is computed once.
        """
        self.eval().requires_grad_(False)
        if isinstance(self.policy, PolicyNetwork):
            self.policy.fold()
        for block in (*self.exit_head_blocks, self.backbone.depth):
            if isinstance(head := self.head(block), AtmHead):
                head.cache_first_query()
        return self

    def forward(
        self,
        images_B3HW: Tensor,
        labels_BHW: Tensor | None = None,
        reduction: Reduction | None = None,
    ) -> Segmentation:
        """Segment a batch.

        Args:
            images_B3HW: RGB in [0, 1], any size; padded to the patch grid and cropped again.
            labels_BHW: training ids, read by an oracle policy only.
            reduction: overrides the model's own, for the same weights under another system.

        """
        if reduction is None:
            reduction = self.reduction
        else:
            self.check(reduction)
        self.check_images(images_B3HW)
        shown_B3HW = self.show(images_B3HW, reduction.cell)
        reduction = within_budget(self, reduction, (shown_B3HW.shape[2], shown_B3HW.shape[3]))
        logits: Mapping[int, Tensor] = {}
        if reduction.merge is not None and reduction.merge.asks_policy:
            logits = self.policy_logits(shown_B3HW, labels_BHW)
        layout = self.merge(shown_B3HW, logits, reduction.merge)
        if isinstance(self.policy, PolicyNetwork) and self.policy.training:
            logits = self.policy(shown_B3HW)  # to learn; updates the statistics of the decision
        # In training every head learns, also where nobody may leave.
        heads = tuple(self.exit_head_blocks) if self.training else None
        size = (images_B3HW.shape[2], images_B3HW.shape[3])
        return self.walk(shown_B3HW, size, layout, Group((reduction,), heads), logits)[reduction]

    def walk(
        self,
        shown_B3HW: Tensor,
        size: tuple[int, int],
        layout: TokenLayout,
        group: Group,
        logits: Mapping[int, Tensor],
    ) -> dict[Reduction, Segmentation]:
        """From superpatches to maps, for all reductions that made these superpatches.

        Args:
            shown_B3HW: from `show`.
            size: height and width of the images before.
            layout: the superpatches, from `merge`.
            group: the reductions, alike up to their exits; what they have in common is computed
                once.
            logits: the policy's, for the results.

        """
        tokens = self.embed(shown_B3HW, layout, group.reduction.merge)
        board = Board.empty(layout, own_presence=self.class_source == "own")
        self._walk_on(tokens, board, 0, group)
        cell = group.reduction.cell or self.patch_size
        # Who decided alike has one board, and gets one result.
        boards = {id(board): board for board in group.done.values()}
        results = {key: board.result(size, cell, logits) for key, board in boards.items()}
        return {reduction: results[id(board)] for reduction, board in group.done.items()}

    def _walk_on(self, tokens: PackedTokens, board: Board, start: int, group: Group) -> None:
        """Go on after block `start` with reductions that decided alike so far."""
        for block, here in group.by_next_head(start, self.backbone.depth):
            tokens, seen = self._run_blocks(tokens, start, block, board.layout.grid, group)
            head = self.head(block)
            if isinstance(head, EomtHead) or head.among_all:
                here.arrive(board.draw(block, seen, self._masks(tokens, seen, board)))
                continue
            answers = head.answers(seen)
            written = board.write(block, seen, answers, head.temperature)
            if isinstance(self.decoder, EomtHead):
                written = written.keep_read(seen)
            start = block
            if block == self.backbone.depth:
                here.arrive(written)
                continue
            for keep_T, part in here.exits(block, seen, written, answers[-1][0]):
                if keep_T is None:
                    self._walk_on(tokens, written, block, part)
                else:  # with gradients: who stays carries them back
                    released = written.release(seen, keep_T)
                    self._walk_on(tokens.select(keep_T), released, block, part)

    def _run_blocks(
        self,
        tokens: PackedTokens,
        start: int,
        block: int,
        grid: tuple[int, int],
        group: Group,
    ) -> tuple[PackedTokens, PackedTokens]:
        """Run the blocks ``start + 1`` to the next head: the rows then, and what the head reads.

        That is the tokens without prefix rows, after the final norm where the encoder has one; of a
        cascade after earlier blocks, too: values ``[T, S * D]``.
        """
        seen, rule = [], group.reduction.inside
        if isinstance(self.decoder, EomtHead) and start <= self.decoder.start < block:
            tokens = self.backbone.run_blocks(tokens, start, self.decoder.start)
            tokens, start = self.decoder.join(tokens), self.decoder.start
        for stop in (*self.head(block).earlier_blocks, block):
            if rule is None:
                tokens = self.backbone.run_blocks(tokens, start, stop)
            else:
                tokens = rule.run(self.backbone, tokens, (start, stop), grid, self.scorers)
            start = stop
            seen.append(self.backbone.read(tokens))
        if len(seen) == 1:
            return tokens, seen[0]
        values = [read.values_TD for read in seen[::-1]]
        return tokens, seen[-1].with_values(torch.cat(values, dim=1))

    def _masks(self, tokens: PackedTokens, seen: PackedTokens, board: Board) -> QueryMasks:
        """What the decoder's queries, not one per class, say of every cell of the grid."""
        decoder, layout = self.decoder, board.layout
        if isinstance(decoder, AtmHead):
            mask_logits_TC, class_logits = decoder(seen)
            return QueryMasks(layout.unmerge(mask_logits_TC).permute(0, 3, 1, 2), class_logits)
        query_BQD = self.backbone.norm(tokens.first(decoder.numbers.queries))
        read_T0D = board.keep_read(seen).read_T0D
        assert read_T0D is not None
        return decoder(query_BQD, layout.unmerge(read_T0D))

    def check_images(self, images_B3HW: Tensor) -> None:
        """Refuse a batch of another shape, or without an image.

        Raises:
            ValueError: says the shape.

        """
        shape = tuple(images_B3HW.shape)
        if len(shape) != 4 or shape[1] != 3 or min(shape) == 0:
            raise ValueError(
                f"a batch has the shape [B, 3, H, W] with at least one image and one pixel, got "
                f"{list(shape)}"
            )

    def show(self, images_B3HW: Tensor, cell: int | None) -> Tensor:
        """The images as the networks see them: resized, where a cell is not a patch."""
        return resize_cells(images_B3HW, cell, self.patch_size)

    def policy_logits(
        self, images_B3HW: Tensor, labels_BHW: Tensor | None = None
    ) -> Mapping[int, Tensor]:
        """By what windows are merged, without gradient; an oracle reads the labels.

        Returns:
            Per window side s logits ``[B, Y // s, X // s]``.

        """
        assert self.policy is not None
        if not isinstance(self.policy, OraclePolicy):
            return self.policy.decide(images_B3HW)
        if labels_BHW is None:
            raise ValueError("the oracle policy merges by labels: pass labels_BHW to forward")
        return self.policy(labels_BHW)

    @torch.no_grad()
    def merge(
        self, images_B3HW: Tensor, logits: Mapping[int, Tensor], rule: MergeRule | None
    ) -> TokenLayout:
        """Turn the policy's logits, by window side, into a layout; without a rule all stay."""
        if rule is None:
            batch, (rows, columns) = len(images_B3HW), self._grid(images_B3HW)
            return TokenLayout.full(batch, (rows, columns), images_B3HW.device)
        return build_layout(self.windows(images_B3HW, logits, rule), rule.windows)

    @torch.no_grad()
    def windows(self, images_B3HW: Tensor, logits: Mapping[int, Tensor], rule: MergeRule) -> Tensor:
        """Side of the window that covers each cell, int64 ``[B, Y, X]``; waits for nothing."""
        batch, grid = len(images_B3HW), self._grid(images_B3HW)
        scores = {window: logit.sigmoid() for window, logit in logits.items()}
        if not rule.asks_policy:  # whichever windows: all, or so many that are drawn then
            blank_BYX = images_B3HW.new_zeros(batch, *grid)
            scores = {w: blank_BYX[:, : grid[0] // w, : grid[1] // w] for w in rule.windows}
        edges = None
        if rule.edge_weight:
            edges = edge_density(images_B3HW, self.patch_size, rule.windows)
        window_BYX = merge_windows(scores, rule, batch, grid, edges)
        if rule.by == "random":
            return shuffle_windows(window_BYX, rule.windows, rule.seed)
        return window_BYX

    def embed(
        self, images_B3HW: Tensor, layout: TokenLayout, rule: MergeRule | None
    ) -> PackedTokens:
        """One token per superpatch."""
        images = pad_to_multiple(images_B3HW, self.patch_size, 0.5)
        return self.backbone.embed(images, layout, rule.resize if rule else "bilinear")

    def head(self, block: int) -> ExitHead | EomtHead:
        """The head that reads the output of a block: the decoder after the last."""
        if block == self.backbone.depth:
            return self.decoder
        return cast(ExitHead, self.exit_heads[str(block)])

    def _grid(self, images_B3HW: Tensor) -> tuple[int, int]:
        height, width = images_B3HW.shape[2:]
        return -(-height // self.patch_size), -(-width // self.patch_size)
