"""Packed tokens: index maps against literals, shrinking, and the way back to the grid."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stepseg.dcts.merge import build_layout
from stepseg.packed import PackedTokens, Segments, TokenLayout

# One image of 2 x 3 cells whose first four are one superpatch, and one image without any:
#   A A b     0 0 1      3 4 5
#   A A c     0 0 2      6 7 8
WINDOWS_BYX = torch.tensor([[[2, 2, 1], [2, 2, 1]], [[1, 1, 1], [1, 1, 1]]])


def layout() -> TokenLayout:
    return build_layout(WINDOWS_BYX, (2,))


def tokens_of(lengths: list[int], dim: int = 2) -> PackedTokens:
    segments = Segments.from_lengths(lengths, "cpu")
    values = torch.arange(float(segments.total * dim)).view(-1, dim)
    return PackedTokens(values, segments, torch.arange(segments.total), segments.image_ids())


class TestSegments:
    def test_from_lengths(self):
        segments = Segments.from_lengths([2, 0, 3], "cpu")
        assert segments.cu_seqlens.tolist() == [0, 2, 2, 5]
        assert segments.cu_seqlens.dtype == torch.int32
        assert segments.lengths == (2, 0, 3)
        assert (segments.num_images, segments.total, segments.max_length) == (3, 5, 3)
        assert segments.image_ids().tolist() == [0, 0, 2, 2, 2]

    def test_no_tokens_at_all(self):
        segments = Segments.from_lengths([0, 0], "cpu")
        assert (segments.num_images, segments.total, segments.max_length) == (2, 0, 0)
        assert segments.image_ids().tolist() == []

    @pytest.mark.parametrize(
        ("lengths", "uniform"),
        [
            ([4], True),
            ([4, 4], True),
            ([4, 3], False),
            ([0, 0], False),
            ([4, 0], False),
            ([], False),
        ],
    )
    def test_only_equal_lengths_above_zero_have_a_dense_view(self, lengths, uniform):
        assert Segments.from_lengths(lengths, "cpu").is_uniform is uniform


class TestLayout:
    def test_of_a_plain_vit(self):
        full = TokenLayout.full(2, (2, 3), "cpu")
        assert full.cell_to_token_BYX.tolist() == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]
        assert full.anchor_T0.tolist() == list(range(12))
        assert full.window_T0.tolist() == [1] * 12
        assert full.segments.lengths == (6, 6)
        assert full.grid == (2, 3)
        assert full.is_full_grid

    def test_of_a_merged_window(self):
        merged = layout()
        assert merged.cell_to_token_BYX.tolist() == [[[0, 0, 1], [0, 0, 2]], [[3, 4, 5], [6, 7, 8]]]
        assert merged.anchor_T0.tolist() == [0, 2, 5, 6, 7, 8, 9, 10, 11]
        assert merged.window_T0.tolist() == [2, 1, 1, 1, 1, 1, 1, 1, 1]
        assert merged.segments.lengths == (3, 6)
        assert merged.segments.cu_seqlens.tolist() == [0, 3, 9]
        assert not merged.is_full_grid

    def test_unmerge_repeats_a_token_over_its_cells(self):
        values = torch.arange(9.0)[:, None] * torch.tensor([1.0, 10.0])
        grid = layout().unmerge(values)
        assert grid[..., 0].tolist() == [[[0, 0, 1], [0, 0, 2]], [[3, 4, 5], [6, 7, 8]]]
        assert grid[..., 1].tolist() == [[[0, 0, 10], [0, 0, 20]], [[30, 40, 50], [60, 70, 80]]]

    def test_unmerge_of_a_plain_vit_is_the_grid(self):
        values = torch.randn(12, 4)
        grid = TokenLayout.full(2, (2, 3), "cpu").unmerge(values)
        assert torch.equal(grid, values.view(2, 2, 3, 4))

    def test_gather_picks_the_level_of_each_window(self):
        # Cells are numbered 0..11, the 2 x 2 windows (one per image) 100 and 101.
        cells = torch.arange(12.0).view(2, 2, 3, 1)
        windows = torch.tensor([100.0, 101.0]).view(2, 1, 1, 1)
        gathered = layout().gather_windows({1: cells, 2: windows})
        assert gathered.flatten().tolist() == [100, 2, 5, 6, 7, 8, 9, 10, 11]

    def test_gather_from_levels_that_images_share(self):
        cells = torch.arange(6.0).view(1, 2, 3, 1)
        windows = torch.tensor(100.0).view(1, 1, 1, 1)
        gathered = layout().gather_windows({1: cells, 2: windows})
        assert gathered.flatten().tolist() == [100, 2, 5, 0, 1, 2, 3, 4, 5]
        full = TokenLayout.full(2, (2, 3), "cpu").gather_windows({1: cells})
        assert full.flatten().tolist() == [0, 1, 2, 3, 4, 5] * 2

    @given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 9))
    def test_gathering_then_unmerging_gives_every_cell_its_window(self, seed, rows, columns):
        generator = torch.Generator().manual_seed(seed)
        window_BYX = torch.ones(2, rows, columns, dtype=torch.int64)
        for side in (4, 2):
            y, x = rows // side, columns // side
            merged = torch.rand(2, y, x, generator=generator) < 0.4
            for b, i, j in merged.nonzero().tolist():
                area = window_BYX[b, i * side : (i + 1) * side, j * side : (j + 1) * side]
                if (area == 1).all():
                    area.fill_(side)
        # Each window of each level carries a number of its own: side, image and place.
        levels = {
            side: torch.stack(
                torch.meshgrid(
                    torch.tensor([side]),
                    torch.arange(2),
                    torch.arange(rows // side),
                    torch.arange(columns // side),
                    indexing="ij",
                ),
                -1,
            )[0]
            for side in (1, 2, 4)
        }
        merged_layout = build_layout(window_BYX, (2, 4))
        cells = merged_layout.unmerge(merged_layout.gather_windows(levels))
        for b in range(2):
            for i in range(rows):
                for j in range(columns):
                    side = int(window_BYX[b, i, j])
                    assert cells[b, i, j].tolist() == [side, b, i // side, j // side]


class TestSelect:
    def test_keeps_rows_and_their_bookkeeping(self):
        tokens = tokens_of([3, 2, 2])
        kept = tokens.select(torch.tensor([True, False, True, False, False, True, True]))
        assert kept.values_TD.tolist() == [[0, 1], [4, 5], [10, 11], [12, 13]]
        assert kept.segments.lengths == (2, 0, 2)
        assert kept.segments.cu_seqlens.tolist() == [0, 2, 2, 4]
        assert kept.segments.cu_seqlens.dtype == torch.int32
        assert kept.token_ids_T.tolist() == [0, 2, 5, 6]
        assert kept.image_ids_T.tolist() == [0, 0, 2, 2]
        assert len(kept) == 4

    def test_names_tokens_by_their_first_rows_when_repeated(self):
        once = tokens_of([3, 3]).select(torch.tensor([False, True, True, True, False, True]))
        twice = once.select(torch.tensor([True, False, False, True]))
        assert twice.token_ids_T.tolist() == [1, 5]
        assert twice.segments.lengths == (1, 1)

    def test_nobody_stays(self):
        empty = tokens_of([3, 2]).select(torch.zeros(5, dtype=torch.bool))
        assert empty.segments.lengths == (0, 0)
        assert empty.values_TD.shape == (0, 2)
        again = empty.select(torch.zeros(0, dtype=torch.bool))
        assert again.segments.lengths == (0, 0)
        assert again.segments.cu_seqlens.tolist() == [0, 0, 0]

    def test_everybody_stays(self):
        tokens = tokens_of([3, 2])
        same = tokens.select(torch.ones(5, dtype=torch.bool))
        assert torch.equal(same.values_TD, tokens.values_TD)
        assert same.segments.lengths == (3, 2)

    def test_values_move_with_their_gradient(self):
        tokens = tokens_of([2, 2])
        values = tokens.values_TD.clone().requires_grad_()
        kept = tokens.with_values(values).select(torch.tensor([False, True, True, False]))
        (kept.values_TD * torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum().backward()
        assert values.grad is not None
        assert values.grad.tolist() == [[0, 0], [1, 2], [3, 4], [0, 0]]

    def test_leaves_the_original_alone(self):
        tokens = tokens_of([2, 2])
        before = tokens.values_TD.clone()
        tokens.select(torch.tensor([False, True, True, False]))
        assert torch.equal(tokens.values_TD, before)
        assert tokens.segments.lengths == (2, 2)


class TestPrefix:
    """Two rows, P and Q, before the tokens of every image: P Q A b c | P Q 3 4 5 6 7 8."""

    def tokens(self) -> PackedTokens:
        values = torch.arange(9.0)[:, None]
        prefix = torch.tensor([[-1.0], [-2.0]])
        return PackedTokens.from_layout(values, layout(), prefix, layout().centres())

    def test_comes_first_in_every_image(self):
        tokens = self.tokens()
        assert tokens.values_TD.flatten().tolist() == [-1, -2, 0, 1, 2, -1, -2, 3, 4, 5, 6, 7, 8]
        assert tokens.token_ids_T.tolist() == [-1, -1, 0, 1, 2, -1, -1, 3, 4, 5, 6, 7, 8]
        assert tokens.image_ids_T.tolist() == [0] * 5 + [1] * 8
        assert tokens.segments.lengths == (5, 8)
        assert tokens.segments.cu_seqlens.tolist() == [0, 5, 13]
        assert tokens.places_T2 is not None
        assert tokens.places_T2[:5].tolist() == [[0, 0], [0, 0], [1, 1], [0.5, 2.5], [1.5, 2.5]]

    def test_patches_are_the_tokens_without_it(self):
        patches = self.tokens().patches()
        assert patches.values_TD.flatten().tolist() == list(range(9))
        assert patches.token_ids_T.tolist() == list(range(9))
        assert patches.image_ids_T.tolist() == [0] * 3 + [1] * 6
        assert patches.segments.lengths == (3, 6)
        assert patches.segments.cu_seqlens.tolist() == [0, 3, 9]
        assert patches.segments.cu_seqlens.dtype == torch.int32
        assert patches.prefix == 0
        assert patches.patches() is patches

    def test_more_rows_come_before_it(self):
        longer = self.tokens().behind(torch.tensor([[-7.0], [-8.0], [-9.0]]))
        first = [-7, -8, -9, -1, -2]
        assert longer.values_TD.flatten().tolist() == [*first, 0, 1, 2, *first, 3, 4, 5, 6, 7, 8]
        assert longer.token_ids_T.tolist() == [-1] * 5 + [0, 1, 2] + [-1] * 5 + [3, 4, 5, 6, 7, 8]
        assert longer.image_ids_T.tolist() == [0] * 8 + [1] * 11
        assert (longer.prefix, longer.lengths) == (5, (3, 6))
        assert longer.places_T2[3:7].tolist() == [[0, 0], [0, 0], [1, 1], [0.5, 2.5]]
        assert longer.first(3).flatten(1).tolist() == [first[:3]] * 2
        assert longer.patches().values_TD.flatten().tolist() == list(range(9))

    def test_never_leaves(self):
        kept = self.tokens().select(torch.tensor([False] * 3 + [True, False, False] * 2))
        assert kept.values_TD.flatten().tolist() == [-1, -2, -1, -2, 3, 6]
        assert kept.segments.lengths == (2, 4)
        assert kept.patches().segments.lengths == (0, 2)
        empty = kept.select(torch.zeros(2, dtype=torch.bool))
        assert empty.segments.lengths == (2, 2)
        assert empty.patches().values_TD.shape == (0, 1)

    def test_does_not_merge(self):
        tokens = self.tokens()
        # b becomes part of A; 5 and 7 of 3; then A of c and 4 of 3.
        once = tokens.merge(torch.tensor([0, 0, 2, 3, 4, 3, 6, 3, 8]))
        again = once.merge(torch.tensor([1, 1, 2, 2, 4, 5]), lengths=(1, 3))
        assert once.values_TD.flatten().tolist() == [-1, -2, 0.5, 2, -1, -2, 5, 4, 6, 8]
        assert again.values_TD.flatten().tolist() == [-1, -2, 1, -1, -2, 4.75, 6, 8]
        assert again.size_T is not None
        assert again.root_T0 is not None
        assert again.size_T.tolist() == [1, 1, 3, 1, 1, 4, 1, 1]
        assert again.root_T0.tolist() == [2, 2, 2, 3, 3, 3, 6, 3, 8]
        assert again.token_ids_T.tolist() == [-1, -1, 2, -1, -1, 3, 6, 8]
        assert again.segments.lengths == (3, 5)
        assert again.places_T2 is not None
        torch.testing.assert_close(again.places_T2[2], torch.tensor([1.0, 2.0]))
        said = again.patches().spread(torch.tensor([10.0, 20.0, 30.0, 40.0]), torch.zeros(9))
        assert said.tolist() == [10, 10, 10, 20, 20, 20, 30, 20, 40]

    def test_goes_on_when_others_come_back(self):
        tokens = self.tokens()
        few = tokens.select(torch.tensor([True, False, True] + [False] * 5 + [True]), (2, 1))
        back = few.with_values(few.values_TD * 100).back_among(tokens)
        assert back.values_TD.flatten().tolist() == [
            *(-100, -200, 0, 1, 200),
            *(-100, -200, 3, 4, 5, 6, 7, 800),
        ]
        assert back.token_ids_T.tolist() == tokens.token_ids_T.tolist()

    def test_learns_from_all_images(self):
        prefix = torch.zeros(2, 1, requires_grad=True)
        tokens = PackedTokens.from_layout(torch.ones(9, 1), layout(), prefix)
        (tokens.values_TD * torch.arange(1.0, 14.0)[:, None]).sum().backward()
        assert prefix.grad is not None
        assert prefix.grad.tolist() == [[1 + 6], [2 + 7]]


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    data=st.data(),
)
def test_selecting_is_what_lists_do_and_again_what_both_selections_do(lengths, data):
    keep = data.draw(st.lists(st.booleans(), min_size=sum(lengths), max_size=sum(lengths)))
    tokens = tokens_of(lengths)
    kept = tokens.select(torch.tensor(keep, dtype=torch.bool))
    rows = [row for row, stays in enumerate(keep) if stays]
    images = [image for image, length in enumerate(lengths) for _ in range(length)]
    assert kept.values_TD.tolist() == [[2 * row, 2 * row + 1] for row in rows]
    assert kept.token_ids_T.tolist() == rows
    assert kept.image_ids_T.tolist() == [images[row] for row in rows]
    own = tuple(sum(images[row] == image for row in rows) for image in range(len(lengths)))
    assert kept.segments.lengths == own
    assert kept.segments.cu_seqlens.diff().tolist() == list(own)
    assert kept.segments.image_ids().tolist() == kept.image_ids_T.tolist()

    again = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    both = torch.zeros(sum(lengths), dtype=torch.bool)
    both[[row for row, stays in zip(rows, again, strict=True) if stays]] = True
    twice, once = kept.select(torch.tensor(again, dtype=torch.bool)), tokens.select(both)
    assert twice.token_ids_T.tolist() == once.token_ids_T.tolist()
    assert twice.segments.lengths == once.segments.lengths
