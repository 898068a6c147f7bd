"""A process in which nothing moves after a signal is ended; what moves is left alone."""

import os
import signal
import threading
import time

import pytest

from stepseg.lit.grace import Grace
from stepseg.lit.interrupt import StopOnSignal


@pytest.fixture
def ended(monkeypatch):
    """What the process would have ended with."""
    codes, done = [], threading.Event()
    monkeypatch.setattr(os, "_exit", lambda code: (codes.append(code), done.set()))
    before = signal.signal(signal.SIGUSR1, lambda *args: None)
    yield codes, done
    signal.signal(signal.SIGUSR1, before)


def test_batches_put_the_end_off(ended):
    codes, done = ended
    with Grace(2.0, lambda signum: signum) as grace:
        callback = StopOnSignal(grace.moved)
        os.kill(os.getpid(), signal.SIGUSR1)
        start = time.monotonic()
        while time.monotonic() < start + 3:
            callback.on_validation_batch_end()
        assert codes == []
        assert done.wait(60)
    assert codes == [signal.SIGUSR1]


def test_what_obeys_is_not_ended(ended):
    codes, done = ended
    with Grace(0.2, lambda signum: signum):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert not done.wait(0.5)
    with Grace(0.2, lambda signum: signum):
        if (child := os.fork()) == 0:  # as loaders are; what they are told is not for us
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        assert not done.wait(0.5)
    assert codes == []
    with pytest.raises(ValueError, match=r"stop\.grace_seconds is a positive number, got 0"):
        Grace(0, lambda signum: signum)
