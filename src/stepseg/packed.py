"""Packed tokens: images of different token counts in one tensor, without padding.

Merging (STEP, arXiv 2509.14165, Sec. 3.2.1) leaves every image with its own number of tokens, and
every exit head (Sec. 3.2.2) takes some of them away. Both are index work on one flat ``[T, D]``
tensor. What the tokens mean lives elsewhere: `stepseg.dcts` builds the layout, `stepseg.vit` and
`stepseg.heads` compute on the values.

Some encoders carry rows that are no patches: a class token, registers. They come first among the
rows of every image, neither merge nor leave, and only the encoder sees them; everybody else works
on `PackedTokens.patches`. Inside the blocks tokens may become one as well (`PackedTokens.merge`).

Letters in names: B images, Y x X cells (16-px patches) of the grid, T packed rows now, P of each
image without a patch, M = T - B * P tokens, T0 tokens after merging, D channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor


def upload(values: Sequence, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Make a tensor of small (nested) host data on a device, without waiting for its queue."""
    on_gpu = torch.device(device).type == "cuda"
    # From pageable memory PyTorch waits for the stream; from pinned memory it does not.
    host = torch.tensor(values, dtype=dtype, pin_memory=on_gpu)
    return host.to(device, non_blocking=on_gpu)


@dataclass(frozen=True, slots=True)
class Segments:
    """Which rows of a packed tensor belong to which image.

    The host needs the lengths to launch kernels, the device needs them as data; both are made
    together so that nobody reads them back later.
    """

    cu_seqlens: Tensor
    """int32 ``[B + 1]``; image b owns rows ``cu_seqlens[b]:cu_seqlens[b + 1]``."""
    lengths: tuple[int, ...]
    """The number of rows of each image; zeros are legal."""

    @classmethod
    def from_lengths(cls, lengths: Sequence[int], device: torch.device | str) -> "Segments":
        """Build from host lengths; waits for nothing."""
        offsets = list(accumulate(lengths, initial=0))
        return cls(upload(offsets, torch.int32, device), tuple(lengths))

    @classmethod
    def uniform(cls, images: int, length: int, device: torch.device | str) -> "Segments":
        """Build for images of one length; waits for nothing and uploads nothing."""
        numbers = torch.arange(images + 1, dtype=torch.int32, device=device)
        return cls(numbers * length, (length,) * images)

    @classmethod
    def from_offsets(cls, cu_seqlens: Tensor, offsets: Tensor) -> "Segments":
        """Build from `cu_seqlens` and its copy on the host, `host_offsets`."""
        return cls(cu_seqlens, tuple(offsets.diff().tolist()))

    def longer(self, rows: int) -> "Segments":
        """The same images with so many rows more each, or less; waits for nothing."""
        if rows == 0:
            return self
        images = torch.arange(self.num_images + 1, dtype=torch.int32, device=self.cu_seqlens.device)
        lengths = tuple(length + rows for length in self.lengths)
        return Segments(self.cu_seqlens + rows * images, lengths)

    def host_offsets(self) -> Tensor:
        """`cu_seqlens` on the host, int64 ``[B + 1]``: for operators that take tensors only."""
        return torch.tensor(list(accumulate(self.lengths, initial=0)))

    @property
    def num_images(self) -> int:
        """B."""
        return len(self.lengths)

    @property
    def total(self) -> int:
        """Rows of all images, T."""
        return sum(self.lengths)

    @property
    def max_length(self) -> int:
        """Rows of the longest image."""
        return max(self.lengths, default=0)

    @property
    def is_uniform(self) -> bool:
        """Whether all images have the same, non-zero length, so that a dense view exists."""
        return len(set(self.lengths)) == 1 and self.lengths[0] > 0

    def image_ids(self) -> Tensor:
        """The image of every row, int64 ``[T]``, without a host synchronisation."""
        images = torch.arange(self.num_images, device=self.cu_seqlens.device)
        lengths = self.cu_seqlens.diff()
        return torch.repeat_interleave(images, lengths, output_size=self.total)


@dataclass(frozen=True, slots=True)
class TokenLayout:
    """Where the tokens after merging sit on the patch grid; made once per batch, never changed."""

    cell_to_token_BYX: Tensor
    """int64; the row in ``[T0, ...]`` of the token that covers a cell."""
    window_BYX: Tensor
    """int64; side, in cells, of the window that covers a cell (1: not merged)."""
    anchor_T0: Tensor
    """int64; flat index ``b * Y * X + y * X + x`` of each token's top-left cell."""
    segments: Segments
    """The T0 rows of each image, in raster order of their top-left cells."""
    windows: tuple[int, ...]
    """The window sides that may occur besides 1; empty for a plain ViT."""

    @classmethod
    def full(cls, batch: int, grid: tuple[int, int], device: torch.device | str) -> "TokenLayout":
        """The layout of a plain ViT, where every cell is a token; waits for nothing."""
        rows, columns = grid
        cells = torch.arange(batch * rows * columns, device=device)
        return cls(
            cell_to_token_BYX=cells.view(batch, rows, columns),
            window_BYX=torch.ones(batch, rows, columns, dtype=torch.int64, device=device),
            anchor_T0=cells,
            segments=Segments.uniform(batch, rows * columns, device),
            windows=(),
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patch grid."""
        return self.cell_to_token_BYX.shape[1], self.cell_to_token_BYX.shape[2]

    @property
    def num_tokens(self) -> int:
        """T0."""
        return self.segments.total

    @property
    def is_full_grid(self) -> bool:
        """Whether nothing is merged, so that rows are cells in raster order."""
        return self.num_tokens == self.cell_to_token_BYX.numel()

    @property
    def window_T0(self) -> Tensor:
        """Side, in cells, of every token's window, int64 ``[T0]``."""
        return self.window_BYX.flatten()[self.anchor_T0]

    def centres(self) -> Tensor:
        """Centre of every token in cells, (y, x) from the top-left corner, float32 ``[T0, 2]``."""
        rows, columns = self.grid
        y, x = self.anchor_T0 // columns % rows, self.anchor_T0 % columns
        return torch.stack([y, x], 1) + self.window_T0[:, None] / 2

    def gather_windows(self, levels: Mapping[int, Tensor]) -> Tensor:
        """Pick for every token the row of its window from one grid per window side.

        Args:
            levels: per side s a tensor ``[B, Y // s, X // s, D]``, or ``[1, ...]`` where all
                images share it; s = 1 and all of `windows` that fit into the grid.

        Returns:
            ``[T0, D]``.

        """
        batch, rows, columns = self.cell_to_token_BYX.shape
        if self.is_full_grid:
            return levels[1].expand(batch, -1, -1, -1).flatten(0, 2)
        image = self.anchor_T0 // (rows * columns)
        y = self.anchor_T0 // columns % rows
        x = self.anchor_T0 % columns
        # Where each level starts in the concatenation and how wide it is, by window side.
        starts, widths, image_strides = table = [[0] * (max(levels) + 1) for _ in range(3)]
        offset = 0
        for window, level in levels.items():
            images, height, width = level.shape[:3]
            starts[window], widths[window] = offset, width
            image_strides[window] = height * width if images > 1 else 0
            offset = offset + images * height * width  # a tracer's sizes are tensors: not in place
        side = self.window_T0
        start, width, image_stride = upload(table, torch.int64, side.device)[:, side]
        index = start + image * image_stride + (y // side) * width + x // side
        return torch.cat([level.flatten(0, 2) for level in levels.values()]).index_select(0, index)

    def unmerge(self, values_T0D: Tensor) -> Tensor:
        """Give every cell the value of its token: ``[T0, D] -> [B, Y, X, D]``."""
        if self.is_full_grid:
            return values_T0D.view(*self.cell_to_token_BYX.shape, *values_T0D.shape[1:])
        return values_T0D[self.cell_to_token_BYX]


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
        images = layout.segments.image_ids()
        if prefix_PD is None:
            kept = (values_T0D, layout.segments, token_ids, images)
            return cls(*kept, places_T2=places_T02, root_T0=token_ids)
        prefix, batch = len(prefix_PD), layout.segments.num_images
        segments = layout.segments.longer(prefix)
        rows = _patch_rows(layout.segments, prefix)
        first = segments.cu_seqlens[:-1, None].long()
        prefix_rows = (first + torch.arange(prefix, device=first.device)).flatten()
        values_TD = values_T0D.new_empty(segments.total, values_T0D.shape[1])
        values_TD = values_TD.index_copy(0, rows, values_T0D)
        values_TD = values_TD.index_copy(
            0, prefix_rows, prefix_PD.to(values_TD.dtype).repeat(batch, 1)
        )
        places_T2 = None
        if places_T02 is not None:
            places_T2 = places_T02.new_zeros(segments.total, 2).index_copy(0, rows, places_T02)
        return cls(
            values_TD,
            segments,
            token_ids.new_full((segments.total,), -1).index_copy(0, rows, token_ids),
            segments.image_ids(),
            prefix,
            places_T2,
            root_T0=token_ids,
        )

    def __len__(self) -> int:
        return self.values_TD.shape[0]

    def with_values(self, values_TD: Tensor) -> "PackedTokens":
        """The same rows with other features."""
        return replace(self, values_TD=values_TD)

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


def _patch_rows(tokens: Segments, prefix: int) -> Tensor:
    """Where the tokens stand among rows that begin with `prefix` others per image, ``[M]``."""
    behind = prefix * (tokens.image_ids() + 1)
    return torch.arange(tokens.total, device=behind.device) + behind
