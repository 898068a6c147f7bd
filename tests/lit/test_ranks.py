"""Processes that watch each other: when one dies, the others end, with a word about it."""

import os
import subprocess
import sys

import pytest

from stepseg.lit import ranks
from stepseg.lit.ranks import RankWatch


def start(code):
    return subprocess.Popen([sys.executable, "-c", code])


SLEEP = "import time; time.sleep(1000)"
KILLED = "import os; os.kill(os.getpid(), 9)"


@pytest.fixture
def exits(monkeypatch):
    """The codes with which this process would have ended."""
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(ranks, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(ranks, "POLL_SECONDS", 0.01)
    return codes


@pytest.mark.parametrize(
    ("end", "how"), [(KILLED, "was killed by signal 9"), ("exit(3)", "ended with code 3")]
)
def test_a_death_ends_all_and_is_told(end, how, exits, capsys):
    told, processes = [], [start(SLEEP), start(end)]
    RankWatch(processes, told.append).run()
    (message,) = told
    assert message.startswith(f"the process of rank 2 {how}; the training has ended on all ranks")
    assert message in capsys.readouterr().err
    assert processes[0].wait(60) == -9
    assert exits == [1]


def test_processes_that_end_well_are_let_go(exits):
    RankWatch([start(""), start("")], lambda message: pytest.fail(message)).run()
    assert exits == []


def test_the_others_follow_the_first(exits, monkeypatch):
    monkeypatch.setenv(ranks.PARENT, str(os.getpid()))  # which is not its own parent
    ranks._follow_parent()
    assert exits == [1]
