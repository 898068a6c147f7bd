"""Coarse-to-fine merging: hand-counted label maps, a loop over windows, ranks and ties."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference import merging
from stepseg.dcts.merge import MergeRule, build_layout, merge_windows
from stepseg.dcts.policy import OraclePolicy
from stepseg.packed import TokenLayout

ORACLE = MergeRule(windows=(2, 4, 8, 16), thresholds=(0.5, 0.5, 0.5, 0.5))


def oracle_layout(labels_BHW: torch.Tensor, rule: MergeRule = ORACLE) -> TokenLayout:
    logits = OraclePolicy(windows=rule.windows)(labels_BHW)
    scores = {window: logit.sigmoid() for window, logit in logits.items()}
    batch, height, width = labels_BHW.shape
    grid = (-(-height // 16), -(-width // 16))
    return build_layout(merge_windows(scores, rule, batch, grid), rule.windows)


def windows_of(layout: TokenLayout) -> dict[int, int]:
    """How many tokens there are of each window side."""
    sides, counts = layout.window_T0.unique(return_counts=True)
    return dict(zip(sides.tolist(), counts.tolist(), strict=True))


def labels(height: int, width: int, *marks: tuple[int, int, int]) -> torch.Tensor:
    """One class, with single pixels (y, x, label) of another."""
    result = torch.full((1, height, width), 3)
    for y, x, label in marks:
        result[0, y, x] = label
    return result


class TestOracleByHand:
    """Label maps small enough to count the tokens with a pencil."""

    @pytest.mark.parametrize(
        ("label_map", "counts"),
        [
            # 256 px are one window of 16 patches.
            (labels(256, 256), {16: 1}),
            # One odd pixel in the corner: three 8 x 8 survive; of the fourth three 4 x 4, of its
            # fourth three 2 x 2, of its fourth four single patches.
            (labels(256, 256, (0, 0, 4)), {8: 3, 4: 3, 2: 3, 1: 4}),
            (labels(256, 256, (255, 255, 4)), {8: 3, 4: 3, 2: 3, 1: 4}),
            # Two odd pixels in opposite quarters: 2 + 2 * (3 + 3 + 4).
            (labels(256, 256, (0, 0, 4), (255, 255, 4)), {8: 2, 4: 6, 2: 6, 1: 8}),
            # An ignored pixel counts like another class.
            (labels(64, 64, (0, 0, 255)), {2: 3, 1: 4}),
            # 160 px are 10 x 10 patches: one 8 x 8; beside it 2 columns and 2 rows, five 2 x 2 in
            # the column (rows 0-9), four in the row (columns 0-7); no 4 x 4 fits beside the 8 x 8.
            (labels(160, 160), {8: 1, 2: 9}),
            # 75 x 101 px are padded to 5 x 7 patches. Padding is ignored pixels, hence mixed
            # cells in row 4 and column 6, which are in no window anyway: one 4 x 4 (rows 0-3,
            # columns 0-3), two 2 x 2 (columns 4-5), and 5 + 6 single patches.
            (labels(75, 101), {4: 1, 2: 2, 1: 11}),
            # 90 px are 5.6 patches, 6 x 6 cells: the 4 x 4 merges, the 2 x 2 of the last two rows
            # and columns mix labels with padding.
            (labels(90, 90), {4: 1, 1: 20}),
            # Nothing fits into a grid of one row.
            (labels(16, 64), {1: 4}),
            # Not labelled at all: homogeneous.
            (torch.full((1, 64, 64), 255), {4: 1}),
        ],
    )
    def test_tokens(self, label_map, counts):
        layout = oracle_layout(label_map)
        assert windows_of(layout) == counts
        assert layout.num_tokens == sum(counts.values())

    def test_a_vertical_edge(self):
        # Left 24 px of class 1, the rest class 2, on 4 x 4 patches: patch column 1 is mixed.
        label_map = torch.full((1, 64, 64), 2)
        label_map[..., :24] = 1
        layout = oracle_layout(label_map)
        assert layout.window_BYX[0].tolist() == [[1, 1, 2, 2]] * 4
        assert layout.cell_to_token_BYX[0].tolist() == [
            [0, 1, 2, 2],
            [3, 4, 2, 2],
            [5, 6, 7, 7],
            [8, 9, 7, 7],
        ]

    def test_images_of_a_batch_keep_their_own_counts(self):
        batch = torch.cat([labels(64, 64), labels(64, 64, (0, 0, 4)), labels(64, 64, (20, 40, 4))])
        layout = oracle_layout(batch)
        # 1; 3 + 4; 3 + 4
        assert layout.segments.lengths == (1, 7, 7)
        assert layout.cell_to_token_BYX[0].tolist() == [[0] * 4] * 4
        assert layout.cell_to_token_BYX[1].tolist() == [
            [1, 2, 3, 3],
            [4, 5, 3, 3],
            [6, 6, 7, 7],
            [6, 6, 7, 7],
        ]
        assert layout.cell_to_token_BYX[2].tolist() == [
            [8, 8, 9, 10],
            [8, 8, 11, 12],
            [13, 13, 14, 14],
            [13, 13, 14, 14],
        ]

    def test_one_size_only(self):
        rule = MergeRule(windows=(2,), thresholds=(0.5,))
        assert windows_of(oracle_layout(labels(64, 64), rule)) == {2: 4}

    def test_a_threshold_of_one_turns_a_size_off(self):
        rule = MergeRule(windows=(2, 4), thresholds=(0.5, 1.0))
        assert windows_of(oracle_layout(labels(64, 64), rule)) == {2: 4}

    def test_cts_at_512_px(self):
        """The number of the CTS paper: 103 of 256 windows leave 612 + 103 tokens of 1024."""
        scores = {2: torch.rand(2, 16, 16)}
        rule = MergeRule(windows=(2,), thresholds=None, top_k=103)
        layout = build_layout(merge_windows(scores, rule, 2, (32, 32)), (2,))
        assert layout.segments.lengths == (715, 715)
        assert windows_of(layout) == {1: 2 * 612, 2: 2 * 103}


def random_scores(generator, batch, rows, columns, windows, levels):
    """Scores on a coarse scale, so that ties and exact hits of thresholds occur."""
    return {
        s: torch.randint(0, levels + 1, (batch, rows // s, columns // s), generator=generator)
        / levels
        for s in windows
    }


class TestAgainstLoops:
    @given(
        seed=st.integers(0, 2**31),
        rows=st.integers(1, 18),
        columns=st.integers(1, 18),
        windows=st.sampled_from([(2,), (2, 4), (2, 4, 8, 16), (3, 6), (2, 6), (4,)]),
        threshold=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
    )
    def test_thresholds(self, seed, rows, columns, windows, threshold):
        generator = torch.Generator().manual_seed(seed)
        scores = random_scores(generator, 2, rows, columns, windows, 4)
        rule = MergeRule(windows=windows, thresholds=(threshold,) * len(windows))
        self.check(scores, rule, rows, columns)

    @given(
        seed=st.integers(0, 2**31),
        rows=st.integers(1, 12),
        columns=st.integers(1, 12),
        window=st.sampled_from([2, 3]),
        top_k=st.integers(0, 40),
    )
    def test_ranks(self, seed, rows, columns, window, top_k):
        generator = torch.Generator().manual_seed(seed)
        scores = random_scores(generator, 2, rows, columns, (window,), 4)
        rule = MergeRule(windows=(window,), thresholds=None, top_k=top_k)
        window_BYX = self.check(scores, rule, rows, columns)
        merged = (window_BYX == window).flatten(1).sum(1) // window**2
        assert merged.tolist() == [min(top_k, (rows // window) * (columns // window))] * 2

    @given(
        seed=st.integers(0, 2**31),
        rows=st.integers(4, 12),
        columns=st.integers(4, 12),
        top_k=st.tuples(st.integers(0, 12), st.integers(0, 4)),
    )
    def test_ranks_of_two_sizes(self, seed, rows, columns, top_k):
        """The finer size ranks what the coarser left."""
        generator = torch.Generator().manual_seed(seed)
        scores = random_scores(generator, 2, rows, columns, (2, 4), 4)
        rule = MergeRule(windows=(2, 4), thresholds=None, top_k=top_k)
        window_BYX = self.check(scores, rule, rows, columns)
        coarse = min(top_k[1], (rows // 4) * (columns // 4))
        fine = min(top_k[0], (rows // 2) * (columns // 2) - 4 * coarse)
        assert (window_BYX == 4).flatten(1).sum(1).tolist() == [16 * coarse] * 2
        assert (window_BYX == 2).flatten(1).sum(1).tolist() == [4 * fine] * 2

    @given(
        seed=st.integers(0, 2**31),
        rows=st.integers(4, 12),
        columns=st.integers(4, 12),
        edge_weight=st.sampled_from([-2.0, -0.5, 0.3, 1.0]),
        threshold=st.sampled_from([0.1, 0.6, 1.0]),
    )
    def test_thresholds_that_follow_edges(self, seed, rows, columns, edge_weight, threshold):
        generator = torch.Generator().manual_seed(seed)
        scores, edges = (
            {s: torch.rand(2, rows // s, columns // s, generator=generator) for s in (2, 4)}
            for _ in range(2)
        )
        rule = MergeRule(windows=(2, 4), thresholds=(threshold,) * 2, edge_weight=edge_weight)
        self.check(scores, rule, rows, columns, edges)

    @given(
        seed=st.integers(0, 2**31),
        batch=st.integers(1, 4),
        rows=st.integers(1, 20),
        columns=st.integers(1, 20),
        thresholds=st.tuples(*[st.sampled_from([0.0, 0.25, 0.5, 1.0])] * 3),
        data=st.data(),
    )
    def test_tokens_tile_the_grid_in_any_order_of_the_batch(
        self, seed, batch, rows, columns, thresholds, data
    ):
        windows = (2, 4, 8)
        generator = torch.Generator().manual_seed(seed)
        scores = random_scores(generator, batch, rows, columns, windows, 4)
        rule = MergeRule(windows=windows, thresholds=thresholds)
        window_BYX = merge_windows(scores, rule, batch, (rows, columns))
        layout = build_layout(window_BYX, windows)
        area_T0 = torch.bincount(layout.cell_to_token_BYX.flatten(), minlength=layout.num_tokens)
        assert area_T0.tolist() == (layout.window_T0**2).tolist()
        areas = [own.sum().item() for own in area_T0.split(layout.segments.lengths)]
        assert areas == [rows * columns] * batch
        for window, threshold in zip(windows, thresholds, strict=True):
            if threshold == 1:
                assert not (window_BYX == window).any()
        order = data.draw(st.permutations(range(batch)))
        moved = merge_windows(
            {s: v[order] for s, v in scores.items()}, rule, batch, (rows, columns)
        )
        assert torch.equal(moved, window_BYX[order])

    def check(self, scores, rule, rows, columns, edges=None):
        window_BYX = merge_windows(scores, rule, 2, (rows, columns), edges)
        layout = build_layout(window_BYX, rule.windows)
        first = 0
        for b in range(2):
            own_scores = {s: score[b].tolist() for s, score in scores.items()}
            own_edges = edges and {s: edge[b].tolist() for s, edge in edges.items()}
            covered = merging.merge(own_scores, rule, rows, columns, own_edges)
            assert window_BYX[b].tolist() == covered
            tokens = merging.tokens(covered)
            assert layout.segments.lengths[b] == len(tokens)
            cells = [[-1] * columns for _ in range(rows)]
            for index, (y, x, side) in enumerate(tokens):
                anchor = b * rows * columns + y * columns + x
                assert layout.anchor_T0[first + index] == anchor
                for i in range(side):
                    cells[y + i][x : x + side] = [first + index] * side
            assert layout.cell_to_token_BYX[b].tolist() == cells
            first += len(tokens)
        return window_BYX


class TestDecisions:
    def test_the_threshold_itself_does_not_merge(self):
        scores = {2: torch.tensor([[[0.5, 0.5000001], [0.4999999, 0.6]]])}
        rule = MergeRule(windows=(2,), thresholds=(0.5,))
        merged = merge_windows(scores, rule, 1, (4, 4))[0, ::2, ::2]
        assert merged.tolist() == [[1, 2], [1, 2]]

    def test_each_size_has_its_own_threshold(self):
        scores = {2: torch.full((1, 4, 4), 0.65), 4: torch.tensor([[[0.75, 0.85], [0.65, 0.95]]])}
        rule = MergeRule(windows=(2, 4), thresholds=(0.6, 0.8))
        merged = merge_windows(scores, rule, 1, (8, 8))[0, ::4, ::4]
        assert merged.tolist() == [[2, 4], [2, 4]]

    def test_top_k_takes_the_highest_scores_of_each_image(self):
        scores = {2: torch.tensor([[[0.1, 0.9], [0.8, 0.2]], [[0.9, 0.1], [0.2, 0.3]]])}
        rule = MergeRule(windows=(2,), thresholds=None, top_k=2)
        merged = merge_windows(scores, rule, 2, (4, 4))[:, ::2, ::2]
        assert merged.tolist() == [[[1, 2], [2, 1]], [[2, 1], [1, 2]]]

    @pytest.mark.parametrize(("top_k", "merged"), [(0, 0), (1, 1), (3, 3), (4, 4), (9, 4)])
    def test_top_k_is_exact_where_all_scores_tie(self, top_k, merged):
        scores = {2: torch.full((3, 2, 2), 0.5)}
        rule = MergeRule(windows=(2,), thresholds=None, top_k=top_k)
        window_BYX = merge_windows(scores, rule, 3, (4, 4))
        assert (window_BYX == 2).flatten(1).sum(1).tolist() == [4 * merged] * 3

    def test_top_k_merges_whatever_the_score(self):
        scores = {2: torch.zeros(1, 2, 2)}
        rule = MergeRule(windows=(2,), thresholds=None, top_k=4)
        assert (merge_windows(scores, rule, 1, (4, 4)) == 2).all()

    def test_an_image_does_not_depend_on_its_neighbours(self):
        grid = (9, 13)
        scores = {s: torch.rand(4, 9 // s, 13 // s) for s in (2, 4)}
        for rule in (
            MergeRule(windows=(2, 4), thresholds=(0.5, 0.5)),
            MergeRule(windows=(2,), thresholds=None, top_k=5),
        ):
            together = merge_windows(scores, rule, 4, grid)
            for b in range(4):
                alone = merge_windows({s: v[b : b + 1] for s, v in scores.items()}, rule, 1, grid)
                assert torch.equal(alone[0], together[b])

    def test_scores_of_another_grid_are_refused(self):
        rule = MergeRule(windows=(2,), thresholds=(0.5,))
        with pytest.raises(ValueError, match=r"\(1, 3, 3\), a 4 x 4 grid needs \(1, 2, 2\)"):
            merge_windows({2: torch.rand(1, 3, 3)}, rule, 1, (4, 4))


class TestWrongRules:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"windows": (2, 3), "thresholds": (0.5, 0.5)}, r"each divide the next; got \(2, 3\)"),
            ({"windows": (4, 2), "thresholds": (0.5, 0.5)}, r"ascending.*\(4, 2\)"),
            ({"windows": (2, 2), "thresholds": (0.5, 0.5)}, r"ascending.*\(2, 2\)"),
            ({"windows": (1, 2), "thresholds": (0.5, 0.5)}, "greater than 1"),
            ({"windows": (0,), "thresholds": (0.5,)}, "greater than 1"),
            ({"windows": (2,), "thresholds": (1.1,)}, r"in \[0, 1\], got 1.1"),
            ({"windows": (2, 4), "thresholds": (0.5, -0.1)}, r"in \[0, 1\], got -0.1"),
            ({"windows": (2,), "thresholds": (float("nan"),)}, r"in \[0, 1\], got nan"),
            ({"windows": (2, 4), "thresholds": (0.5,)}, "1 merge thresholds for 2 window sizes"),
            ({"windows": (2, 4), "thresholds": None, "top_k": 3}, r"top_k.*windows=\(2, 4\)"),
            ({"windows": (2,), "thresholds": None, "top_k": (3, 1)}, r"top_k.*windows=\(2,\)"),
            ({"windows": (2, 4), "thresholds": None, "top_k": (3, -1)}, r"cannot be \(3, -1\)"),
            ({"windows": (2,), "thresholds": None, "top_k": -1}, "cannot be -1"),
            (
                {"windows": (2,), "thresholds": (0.5,), "top_k": 3},
                "either merge thresholds or top_k",
            ),
            ({"windows": (2,), "thresholds": None}, "either merge thresholds or top_k"),
            ({"resize": "nearest"}, "'bilinear' or 'area', got 'nearest'"),
        ],
    )
    def test_one_clear_message(self, values, message):
        with pytest.raises(ValueError, match=message):
            MergeRule(**values)

    def test_the_published_rule_is_the_default(self):
        rule = MergeRule()
        assert rule.windows == (2, 4, 8, 16)
        assert rule.thresholds == (0.6, 0.8, 0.9, 0.9)
        assert rule.resize == "bilinear"
