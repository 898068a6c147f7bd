"""The share of tokens that pays for an exit head: at it, and not before, operations are saved."""

import pytest

from stepseg.heads.exit import ConfidenceExit
from stepseg.model import Reduction
from stepseg.profile.benchmark import prescribed_cost
from stepseg.profile.break_even import break_even
from stepseg.profile.tokens import prescribe
from toys import toy_segmenter

SIDE = 320
TOKENS = (SIDE // 16) ** 2


@pytest.fixture(scope="module")
def exit_break_even(script):
    return script("exit_break_even")


@pytest.mark.parametrize("block", [1, 2])
def test_products_are_saved_from_there_on(block):
    model = toy_segmenter()
    assert block in model.exit_head_blocks

    def products(left):
        reduction = Reduction(exit=ConfidenceExit(), exit_blocks=(block,))
        counted = prescribe(reduction, (SIDE // 16,) * 2, [TOKENS, left])
        parts = prescribed_cost(model, counted, (SIDE, SIDE))["gmacs_by_part"]
        return sum(macs for part, macs in parts.items() if part != "norms")

    dense = prescribed_cost(model, Reduction(), (SIDE, SIDE))["gmacs_by_part"]
    without = sum(macs for part, macs in dense.items() if part != "norms")
    leaving = round(break_even(model, block, TOKENS) * TOKENS)
    assert 0 < leaving < TOKENS
    assert products(TOKENS - leaving) <= without < products(TOKENS - leaving + 1)


def test_the_table(exit_break_even, capsys):
    exit_break_even.main(["--classes", "19", "--heads", "atm", "linear"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 2 * 5
    operators = {line.split("|")[3].strip(): int(line.split("|")[-2]) for line in lines[2:]}
    assert 0 < 5 * operators["linear"] < operators["atm"]
    shares = [float(cell) for cell in lines[2].replace("%", "").split("|")[5:-2]]
    assert shares == sorted(shares, reverse=True)  # the more tokens, the less a head weighs
