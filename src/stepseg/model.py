"""STEP as one model: policy -> merge -> (blocks -> head -> exit)* -> blocks -> decoder -> map.

The control flow of "Where Do Tokens Go?" (arXiv 2509.14165), Figure 2. Every system of the paper is
a `Reduction` of the same weights: the dense baseline merges nothing and lets nobody leave, CTS and
dCTS only merge, DToP only exits, STEP does both. What the parts compute lives with the parts.

Host synchronisations: one after merging (`stepseg.dcts.merge.build_layout`) and one per active exit
(`PackedTokens.select`). Everything else only queues work.

Letters: B images, H x W pixels, Y x X cells of the patch grid, T active tokens, T0 tokens after
merging, C classes.
"""

from collections.abc import Mapping
from typing import Self, cast

import torch
from torch import Tensor, nn

from stepseg.dcts.edges import edge_density
from stepseg.dcts.merge import build_layout, merge_windows
from stepseg.dcts.policy import OraclePolicy, PolicyNetwork
from stepseg.dcts.targets import pad_to_multiple
from stepseg.heads.atm import AtmHead, presence_probability
from stepseg.packed import PackedTokens, TokenLayout
from stepseg.reduction import Reduction
from stepseg.segmentation import HeadOutput, Segmentation
from stepseg.vit.staged import StagedViT

__all__ = ["RUNTIMES", "HeadOutput", "Reduction", "Segmentation", "StepSegmenter"]

RUNTIMES = ("eager", "compile")


class StepSegmenter(nn.Module):
    """The segmenter, composed of finished parts.

    Args:
        backbone: the encoder.
        decoder: the head after the last block.
        exit_heads: heads by the block (counted from 1) whose output they read. Training runs and
            supervises all of them; which ones let tokens leave is up to the `Reduction`.
        policy: scores windows for merging; None: no reduction may merge.
        reduction: the reduction that `forward` uses unless told otherwise.
        class_source: whose class probabilities enter the map: ``final``, the decoder's for all
            cells, as in DToP, or ``own``, those of the head at which a token left.

    """

    def __init__(
        self,
        *,
        backbone: StagedViT,
        decoder: AtmHead,
        exit_heads: Mapping[int, AtmHead] | None = None,
        policy: PolicyNetwork | OraclePolicy | None = None,
        reduction: Reduction | None = None,
        class_source: str = "final",
    ) -> None:
        super().__init__()
        if class_source not in ("final", "own"):
            raise ValueError(f"class_source must be 'final' or 'own', got {class_source!r}")
        self.policy, self.backbone, self.decoder = policy, backbone, decoder
        self.exit_heads = nn.ModuleDict(
            {str(block): head for block, head in sorted((exit_heads or {}).items())}
        )
        self.class_source = class_source
        for block in self.exit_head_blocks:
            if not 1 <= block < backbone.depth:
                raise ValueError(
                    f"exit block {block} is outside 1..{backbone.depth - 1}: the backbone has "
                    f"{backbone.depth} blocks and the decoder follows the last"
                )
        self.reduction = reduction or Reduction()
        self.check(self.reduction)

    @property
    def exit_head_blocks(self) -> list[int]:
        """The blocks that have an exit head, ascending."""
        return [int(block) for block in self.exit_heads]

    @property
    def num_classes(self) -> int:
        return self.decoder.num_classes

    @property
    def patch_size(self) -> int:
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
        if reduction.merge is None:
            return
        if self.policy is None:
            raise ValueError(
                f"merging windows {reduction.merge.windows} needs a policy network, this model has "
                f"none: choose a policy, or a reduction without merging"
            )
        unknown = set(reduction.merge.windows) - set(self.policy.windows)
        if unknown:
            raise ValueError(
                f"the policy scores windows {self.policy.windows}, not {sorted(unknown)}"
            )

    def prepare_for_inference(self, runtime: str = "eager") -> Self:
        """Set evaluation mode for good, in place: no gradients, the policy's BatchNorms folded.

        Args:
            runtime: ``eager``, or ``compile``: the blocks between exits become compiled graphs at
                their first use (`stepseg.vit.compiled`).

        """
        if runtime not in RUNTIMES:
            raise ValueError(f"runtime={runtime!r}: choose one of {', '.join(RUNTIMES)}")
        self.eval().requires_grad_(False)
        if isinstance(self.policy, PolicyNetwork):
            self.policy.fold_batch_norm()
        if runtime == "compile":
            self.backbone.compile_stages()
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
        layout, policy_logits = self._merge(images_B3HW, labels_BHW, reduction)
        images = pad_to_multiple(images_B3HW, self.patch_size, 0.5)
        resize = reduction.merge.resize if reduction.merge else "bilinear"
        tokens = self.backbone.embed(images, layout, resize)

        board = _Board(layout, reduction, self.class_source)
        start = 0
        for block, head in self._heads_to_run(reduction):
            tokens = self.backbone.run_blocks(tokens, start, block)
            tokens = board.write(block, tokens, *head(tokens))
            start = block
        return Segmentation(
            image_size=(images_B3HW.shape[2], images_B3HW.shape[3]),
            patch_size=self.patch_size,
            layout=layout,
            heads=board.heads,
            exit_T0=board.exit_T0,
            presence_T0C=board.presence_T0C,
            presence_BC=board.presence_BC,
            policy_logits=policy_logits,
        )

    def _merge(
        self, images_B3HW: Tensor, labels_BHW: Tensor | None, reduction: Reduction
    ) -> tuple[TokenLayout, Mapping[int, Tensor]]:
        batch, _, height, width = images_B3HW.shape
        grid = (-(-height // self.patch_size), -(-width // self.patch_size))
        logits = self._policy_logits(images_B3HW, labels_BHW, reduction)
        if reduction.merge is None:
            return TokenLayout.full(batch, grid, images_B3HW.device), logits
        with torch.no_grad():
            scores = {window: logit.sigmoid() for window, logit in logits.items()}
            edges = None
            if reduction.merge.edge_weight:
                edges = edge_density(images_B3HW, self.patch_size, reduction.merge.windows)
            window_BYX = merge_windows(scores, reduction.merge, batch, grid, edges)
            return build_layout(window_BYX, reduction.merge.windows), logits

    def _policy_logits(
        self, images_B3HW: Tensor, labels_BHW: Tensor | None, reduction: Reduction
    ) -> Mapping[int, Tensor]:
        if isinstance(self.policy, OraclePolicy):
            if reduction.merge is None:
                return {}
            if labels_BHW is None:
                raise ValueError("the oracle policy merges by labels: pass labels_BHW to forward")
            return self.policy(labels_BHW)
        learns = self.policy is not None and self.policy.training
        if self.policy is None or not (reduction.merge or learns):
            return {}
        return self.policy(images_B3HW)

    def _heads_to_run(self, reduction: Reduction) -> list[tuple[int, AtmHead]]:
        heads = [
            (int(block), cast(AtmHead, head))  # or what stands in for one, such as a compiled head
            for block, head in self.exit_heads.items()
            if self.training or int(block) in reduction.exit_blocks
        ]
        return [*heads, (self.backbone.depth, self.decoder)]


class _Board:
    """What has been said about every token so far; exits are decided here."""

    def __init__(self, layout: TokenLayout, reduction: Reduction, class_source: str) -> None:
        self.layout, self.reduction = layout, reduction
        self.own_presence = class_source == "own"
        self.heads: list[HeadOutput] = []
        self.exit_T0 = torch.full_like(layout.anchor_T0, len(reduction.exit_blocks))
        self.presence_T0C: Tensor | None = None
        self.presence_BC: Tensor

    def write(
        self, block: int, tokens: PackedTokens, mask_logits_TC: Tensor, class_logits_BC2: Tensor
    ) -> PackedTokens:
        """Record a head's answer for the active tokens; returns the tokens that stay."""
        presence_BC = presence_probability(class_logits_BC2)
        if self.heads:  # an image without tokens has nothing to ask this head
            seen_B1 = tokens.segments.cu_seqlens.diff()[:, None] > 0
            presence_BC = torch.where(seen_B1, presence_BC, self.presence_BC)
        self.presence_BC = presence_BC
        previous = self.heads[-1].mask_logits_T0C if self.heads else None
        self.heads.append(
            HeadOutput(
                block=block,
                mask_logits_T0C=_overwrite(previous, tokens, mask_logits_TC),
                class_logits_BC2=class_logits_BC2,
                tokens_per_image=tokens.segments.lengths,
            )
        )
        leaving = block in self.reduction.exit_blocks
        if not (self.own_presence or leaving):
            return tokens
        presence_TC = presence_BC[tokens.image_ids_T]
        if self.own_presence:
            self.presence_T0C = _overwrite(self.presence_T0C, tokens, presence_TC)
        if not leaving:
            return tokens
        keep_T = self._who_stays(block, tokens, presence_TC * mask_logits_TC.sigmoid())
        return tokens.select(keep_T)  # with gradients: the tokens that stay carry them back

    @torch.no_grad()
    def _who_stays(self, block: int, tokens: PackedTokens, p_TC: Tensor) -> Tensor:
        """Apply the exit rule and note who leaves here; boolean ``[T]``."""
        assert self.reduction.exit is not None
        index = self.reduction.exit_blocks.index(block)
        keep_T = self.reduction.exit.keep(p_TC, tokens, index)
        stage_T = torch.where(keep_T, len(self.reduction.exit_blocks), index)
        self.exit_T0 = self.exit_T0.index_copy(0, tokens.token_ids_T, stage_T)
        return keep_T


def _overwrite(previous: Tensor | None, tokens: PackedTokens, values_TC: Tensor) -> Tensor:
    """Put the active tokens' values over the previous ones of all tokens."""
    if previous is None or len(previous) == len(tokens):
        return values_TC
    return previous.index_copy(0, tokens.token_ids_T, values_TC)
