import pytest
import torch

from stepseg.dcts.merge import MergeRule
from stepseg.heads.exit import ConfidenceExit
from stepseg.model import Reduction
from stepseg.profile.tokens import (
    merged_windows,
    paper_tokens,
    prescribe,
    prescribe_paper,
    stage_tokens,
    tokens_after,
)
from toys import EXIT_BLOCKS, SYSTEMS, toy_images, toy_segmenter

CTS = MergeRule(windows=(2,), thresholds=None, top_k=103, top_k_cells=32 * 32)


def with_exits(*blocks, merge=None):
    return Reduction(merge=merge, exit=ConfidenceExit(), exit_blocks=blocks)


@pytest.mark.parametrize(
    ("side", "tokens"),
    [
        (32, 701),  # 640 + 52 + 9 + 0.3
        (64, 1621),  # 1108 + 452 + 50 + 10 + 0.8
        (48, 1245),  # half way: (701.3 / 1024 + 1620.8 / 4096) / 2 of 2304
        (16, 175),  # constant below: 701.3 / 4
        (128, 6483),  # and above: 1620.8 * 4
    ],
)
def test_tokens_of_the_paper_on_other_grids(side, tokens):
    assert paper_tokens((side, side)) == tokens
    assert paper_tokens((side // 2, side * 2)) == tokens


@pytest.mark.parametrize("side", [16, 32, 40, 48, 64])
def test_windows_leave_the_tokens_of_the_paper(side):
    windows = (2, 4, 8, 16)
    counts = merged_windows((side, side), windows, paper_tokens((side, side)))
    rule = MergeRule(windows=windows, thresholds=None, top_k=counts)
    assert tokens_after(rule, (side, side)) == pytest.approx(paper_tokens((side, side)), abs=1.5)
    assert sorted(counts, reverse=True) == list(counts), "larger windows are rarer"


def test_the_mixture_keeps_the_proportions_of_table_2():
    # 1024 x 1024: 452, 50, 10 and 0.8 would save 2940 of 4096 cells, the total asks for 2475.
    counts = merged_windows((64, 64), (2, 4, 8, 16), 1621)
    factor = 2475 / (3 * 452 + 15 * 50 + 63 * 10 + 255 * 0.8)
    assert counts[1:] == (round(50 * factor), round(10 * factor), round(0.8 * factor))
    assert counts[0] == pytest.approx(452 * factor, abs=30)


@pytest.mark.parametrize(
    ("grid", "windows"), [((32, 32), 103), ((64, 64), 412), ((48, 48), 232), ((40, 40), 161)]
)
def test_cts_keeps_its_number_which_grows_with_the_grid(grid, windows):
    reduction = prescribe_paper(Reduction(merge=CTS), grid)
    assert reduction.merge.counts == (windows,)
    assert stage_tokens(reduction, grid) == (grid[0] * grid[1] - 3 * windows,)


@pytest.mark.parametrize(
    ("grid", "blocks", "tokens"),
    [
        ((32, 32), (6, 8), (456, 432)),  # 700 - 245 and 700 - 269, of 701.3
        ((32, 32), (8,), (428,)),
        ((64, 64), (8, 16), (904, 736)),  # 1621 - 717, 1621 - 885
        ((64, 64), (18,), (788,)),  # 1621 - 833
    ],
)
def test_exits_of_the_paper(grid, blocks, tokens):
    reduction = prescribe_paper(with_exits(*blocks, merge=MergeRule()), grid)
    assert reduction.exit.tokens == pytest.approx(tokens, abs=1)
    assert reduction.exit_blocks == blocks


def test_exits_without_merging_leave_the_same_shares():
    reduction = prescribe_paper(with_exits(8), (32, 32))
    assert reduction.merge is None
    assert reduction.exit.tokens == (round(1024 * (1 - 273 / 701.3)),)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("tokens", [[20, 11, 3], [35, 35, 35], [23, 0, 0]])
def test_the_model_processes_exactly_the_prescribed_counts(system, tokens):
    model, images = toy_segmenter(), toy_images(2)  # 5 x 7 = 35 cells
    system = SYSTEMS[system]
    reduction = prescribe(system, (5, 7), tokens)
    with torch.no_grad():
        output = model(images, reduction=reduction)

    first = tokens[0] if system.merge else 35
    stages = [first, *tokens[1 : len(system.exit_blocks) + 1]]
    assert output.tokens_per_stage == [(stage, stage) for stage in stages]
    assert reduction.exit_blocks == system.exit_blocks in ((), EXIT_BLOCKS)
    if system.merge:
        assert reduction.merge.windows == system.merge.windows
        assert reduction.merge.resize == system.merge.resize


def test_the_dense_baseline_stays_dense():
    assert prescribe_paper(Reduction(), (32, 32)) == Reduction()


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([700], r"1 exit\(s\) make 2 stages, tokens=\[700\] has 1"),
        ([700, 800], "can only become fewer"),
        ([700, -1], "can only become fewer"),
        ([1025, 3], "from at most 1024 cells"),
        ([60, 3], "cannot leave 60 tokens, only 157"),
    ],
)
def test_impossible_counts_are_refused(tokens, message):
    with pytest.raises(ValueError, match=message):
        prescribe(with_exits(8, merge=MergeRule()), (32, 32), tokens)


def test_the_paper_has_no_counts_for_three_exits():
    with pytest.raises(ValueError, match=r"one exit and for two, not for 3"):
        prescribe_paper(with_exits(3, 6, 9), (32, 32))
