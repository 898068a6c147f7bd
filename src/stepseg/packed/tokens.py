"""The tokens of a batch on their way through an encoder: who is there, merges and leaves.

Letters in names: B images, Y x X cells (16-px patches) of the grid, T packed rows now, P of each
image without a patch, M = T - B * P tokens, T0 tokens after merging, D channels.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from stepseg.packed.layout import TokenLayout
from stepseg.packed.segments import Segments


@dataclass(frozen=True, slots=True)
class Passed:
    """What one block did, where rules act inside the blocks; host numbers, for each image."""

    block: int
    """Counted from 1."""
    before: tuple[int, ...]
    """Tokens in its attention."""
    after: tuple[int, ...]
    """Tokens in its MLP."""
    matching: tuple[int, ...]
    """Multiply-accumulates of the decision."""
    extra_channels: int = 0
    """Of every attention head, beside those of queries and values."""
    norms: tuple[int, ...] = ()
    """Tokens that the decision normalises first; empty: none."""

    def of_image(self, index: int) -> "Passed":
        """The same for one image alone."""
        rest = (self.before, self.after, self.matching, self.norms)
        before, after, matching, norms = (numbers[index : index + 1] for numbers in rest)
        return replace(self, before=before, after=after, matching=matching, norms=norms)


@dataclass(frozen=True, slots=True)
class PackedTokens:
    """The tokens that are still being processed."""

    values_TD: Tensor
    """Features, images concatenated in batch order; of each its prefix rows, then its tokens."""
    segments: Segments
    """The T rows of each image, prefix rows included."""
    token_ids_T: Tensor
    """int64; the row of the `TokenLayout` of each token, -1 for prefix rows."""
    image_ids_T: Tensor
    """int64; the image of each row."""
    prefix: int = 0
    """P: rows at the start of every image that are no patches."""
    places_T2: Tensor | None = None
    """float32; where each row lies for rotary positions, 0 for prefix rows; None: they are not
    used. Rows that become one lie at the mean of their places."""
    root_T0: Tensor | None = None
    """int64; the row of the layout whose token stands for each row; None: of no layout."""
    size_T: Tensor | None = None
    """float32; rows of the layout that each token stands for; None: nothing merged in blocks."""
    aside: "PackedTokens | None" = None
    """All tokens of the layout, where some wait aside: with the values that they had then."""
    votes: tuple[Tensor, ...] = ()
    """In training, what scorers of tokens said of the image, to be supervised."""
    passed: tuple[Passed, ...] = ()
    """The blocks so far, where rules act inside them."""

    @classmethod
    def from_layout(
        cls,
        values_T0D: Tensor,
        layout: TokenLayout,
        prefix_PD: Tensor | None = None,
        places_T02: Tensor | None = None,
    ) -> "PackedTokens":
        """Start with all tokens of a layout, behind the same prefix rows in every image."""
        token_ids = torch.arange(layout.num_tokens, device=values_T0D.device)
        tokens = cls(
            values_T0D,
            layout.segments,
            token_ids,
            layout.segments.image_ids(),
            places_T2=places_T02,
            root_T0=token_ids,
        )
        return tokens if prefix_PD is None else tokens.behind(prefix_PD)

    def __len__(self) -> int:
        return self.values_TD.shape[0]

    def with_values(self, values_TD: Tensor) -> "PackedTokens":
        """The same rows with other features."""
        return replace(self, values_TD=values_TD)

    def behind(self, prefix_PD: Tensor) -> "PackedTokens":
        """The same rows behind others in every image, which are no patches; waits for nothing."""
        assert self.size_T is None
        count, values_TD = len(prefix_PD), self.values_TD
        segments, rows = self.segments.longer(count), _patch_rows(self.segments, count)
        first_BP = _first_rows(segments, count).flatten()
        prefix_TD = prefix_PD.to(values_TD.dtype).repeat(segments.num_images, 1)
        spread_TD = values_TD.new_empty(segments.total, values_TD.shape[1])
        spread_TD = spread_TD.index_copy(0, rows, values_TD).index_copy(0, first_BP, prefix_TD)
        ids_T = self.token_ids_T.new_full((segments.total,), -1)
        places_T2 = self.places_T2
        if places_T2 is not None:
            blank_T2 = places_T2.new_zeros(segments.total, 2)
            places_T2 = blank_T2.index_copy(0, rows, places_T2)
        return replace(
            self,
            values_TD=spread_TD,
            segments=segments,
            token_ids_T=ids_T.index_copy(0, rows, self.token_ids_T),
            image_ids_T=segments.image_ids(),
            prefix=self.prefix + count,
            places_T2=places_T2,
        )

    def first(self, count: int) -> Tensor:
        """Values of the first rows of every image, ``[B, count, D]``."""
        return self.values_TD[_first_rows(self.segments, count)]

    def patches(self) -> "PackedTokens":
        """Without the prefix rows: what heads, exit rules and boards see; waits for nothing."""
        if self.prefix == 0:
            return self
        segments = self.segments.longer(-self.prefix)
        return replace(self._rows(self.patch_rows(), segments), prefix=0)

    def patch_rows(self) -> Tensor:
        """Where the tokens stand among the rows, int64 ``[M]``; waits for nothing."""
        return _patch_rows(self.segments.longer(-self.prefix), self.prefix)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each image, without prefix rows."""
        return tuple(length - self.prefix for length in self.segments.lengths)

    def select(self, keep_M: Tensor, lengths: tuple[int, ...] | None = None) -> "PackedTokens":
        """Keep the tokens where the boolean `keep_M` is True, and all prefix rows.

        An image may run out of tokens. The order stays. Values move differentiably, the decision
        does not.

        Args:
            keep_M: which stay.
            lengths: how many of each image, where a rule knows; None: the host asks the device.

        """
        return self._keep(self.keeping(keep_M), lengths)

    def keeping(self, keep_M: Tensor) -> Tensor:
        """The same of rows: boolean ``[T]``, True for tokens that stay and for prefix rows."""
        if self.prefix == 0:
            return keep_M
        return keep_M.new_ones(len(self)).index_copy(0, self.patch_rows(), keep_M)

    def merge(self, into_M: Tensor, lengths: tuple[int, ...] | None = None) -> "PackedTokens":
        """Let tokens become part of others: values are means over all that a token stands for.

        Args:
            into_M: int64; the token that each becomes part of, of the same image, which stays
                itself (its entry is itself).
            lengths: tokens of each image afterwards, as in `select`.

        """
        assert self.root_T0 is not None
        rows_T = torch.arange(len(self), device=into_M.device)
        into_T, ids_M = into_M, self.token_ids_T
        if self.prefix:
            patches = self.patch_rows()
            into_T = rows_T.index_copy(0, patches, patches[into_M])
            ids_M = ids_M[patches]
        stays_T = into_T == rows_T
        group_T = (stays_T.cumsum(0) - 1)[into_T]
        merged = self._keep(stays_T, lengths)
        size_T = self.size_T
        if size_T is None:
            size_T = torch.ones(len(self), device=into_M.device)
        sizes = size_T.new_zeros(len(merged)).index_add(0, group_T, size_T)
        share_T1 = (size_T / sizes[group_T])[:, None]

        def mean(values_TX: Tensor) -> Tensor:
            shares_TX = values_TX * share_T1.to(values_TX.dtype)
            return values_TX.new_zeros(len(merged), values_TX.shape[1]).index_add(
                0, group_T, shares_TX
            )

        # Of each row of the layout its new root; tokens that have left are theirs for good.
        root_T0 = torch.arange(len(self.root_T0), device=into_M.device)
        root_T0 = root_T0.index_copy(0, ids_M, ids_M[into_M])[self.root_T0]
        return replace(
            merged,
            values_TD=mean(self.values_TD),
            places_T2=None if self.places_T2 is None else mean(self.places_T2),
            size_T=sizes,
            root_T0=root_T0,
        )

    def back_among(self, all_: "PackedTokens") -> "PackedTokens":
        """All tokens of a layout, the active ones with the values that they have now."""
        rows = self.token_ids_T
        if self.prefix:
            first = self.segments.cu_seqlens.long()[self.image_ids_T]
            position = torch.arange(len(self), device=rows.device) - first
            first_of_all = all_.segments.cu_seqlens.long()[self.image_ids_T]
            behind = self.prefix * (self.image_ids_T + 1)
            rows = torch.where(rows < 0, first_of_all + position, rows + behind)
        return all_.with_values(all_.values_TD.index_copy(0, rows, self.values_TD))

    def spread(self, values_M: Tensor, previous_T0: Tensor | None) -> Tensor:
        """Give the rows of the layout what is said of the tokens that stand for them.

        Args:
            values_M: of the tokens, which have no prefix rows.
            previous_T0: what the rows have whose tokens are not here; None: zeros.

        Returns:
            ``[T0, ...]``.

        """
        num_rows = len(self) if self.root_T0 is None else len(self.root_T0)
        if len(self) == num_rows:
            return values_M
        if previous_T0 is None:
            previous_T0 = values_M.new_zeros(num_rows, *values_M.shape[1:])
        written_T0 = previous_T0.index_copy(0, self.token_ids_T, values_M)
        return written_T0 if self.size_T is None else written_T0[self.root_T0]

    def _keep(self, keep_T: Tensor, lengths: tuple[int, ...] | None) -> "PackedTokens":
        num_kept = F.pad(keep_T.cumsum(0, dtype=torch.int32), (1, 0))  # kept before each row
        cu_seqlens = num_kept[self.segments.cu_seqlens.long()]
        if lengths is None:
            # host sync: the only one of an exit, or of a block that merges by a threshold
            lengths = tuple(cu_seqlens.diff().tolist())
        else:
            lengths = tuple(length + self.prefix for length in lengths)
        # The size is known on the host, so that finding the rows needs no second wait.
        rows = torch.nonzero_static(keep_T, size=sum(lengths)).squeeze(1)
        return self._rows(rows, Segments(cu_seqlens, lengths))

    def _rows(self, rows: Tensor, segments: Segments) -> "PackedTokens":
        return replace(
            self,
            values_TD=self.values_TD.index_select(0, rows),
            segments=segments,
            token_ids_T=self.token_ids_T.index_select(0, rows),
            image_ids_T=self.image_ids_T.index_select(0, rows),
            places_T2=None if self.places_T2 is None else self.places_T2.index_select(0, rows),
            size_T=None if self.size_T is None else self.size_T.index_select(0, rows),
        )


def _first_rows(rows: Segments, count: int) -> Tensor:
    """Numbers of the first rows of every image, int64 ``[B, count]``."""
    first_B1 = rows.cu_seqlens[:-1, None].long()
    return first_B1 + torch.arange(count, device=first_B1.device)


def _patch_rows(tokens: Segments, prefix: int) -> Tensor:
    """Where the tokens stand among rows that begin with `prefix` others per image, ``[M]``."""
    behind = prefix * (tokens.image_ids() + 1)
    return torch.arange(tokens.total, device=behind.device) + behind
