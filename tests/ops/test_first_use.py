"""What has never run on a device proves itself before anything depends on it."""

import pytest
import torch

from stepseg.ops.first_use import FirstUse, far_apart

pytestmark = pytest.mark.filterwarnings("error")

X = torch.tensor([1.0, -4.0])


def guarded(fast):
    """Beside a plain way that doubles, and the list of who was called."""
    calls = []

    def plain(x):
        calls.append("plain")
        return 2 * x

    def noted(x):
        calls.append("fast")
        return fast(x)

    return FirstUse("the fast way", noted, plain, far_apart), calls


def test_what_agrees_once_is_taken():
    call, calls = guarded(lambda x: x + x)
    for _ in range(3):
        assert torch.equal(call("cuda:0", X), 2 * X)
    assert calls == ["plain", "fast", "fast", "fast"]
    call("cuda:1", X)  # another device proves itself again
    assert calls[4:] == ["plain", "fast"]


@pytest.mark.parametrize(
    ("fast", "reason"),
    [
        (lambda x: 2.1 * x, "off by 0.05 of the largest"),
        (lambda x: x[:1], r"\(1,\) of torch.float32 instead of \(2,\)"),
        (lambda x: 2 * x * float("nan"), "off by nan"),
        (lambda x: x.double() * 2, "float64"),
        (lambda x: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_what_differs_or_raises_is_given_up_with_one_warning(fast, reason):
    call, calls = guarded(fast)
    with pytest.warns(UserWarning, match=f"the fast way is not used for cuda:0: .*{reason}"):
        assert torch.equal(call("cuda:0", X), 2 * X)
    for _ in range(2):  # a warning would be an error
        assert torch.equal(call("cuda:0", X), 2 * X)
    assert calls == ["plain", "fast", "plain", "plain"]


def test_what_fails_later_is_given_up_as_well():
    call, _ = guarded(lambda x: 2 * x / int(1 / (len(x) < 3)))
    call("cuda:0", X)
    with pytest.warns(UserWarning, match="not used"):
        assert torch.equal(call("cuda:0", torch.ones(3)), torch.full((3,), 2.0))


def test_want_of_memory_is_no_fault():
    def full(x):
        raise torch.OutOfMemoryError("no memory")

    call, _ = guarded(full)
    with pytest.raises(torch.OutOfMemoryError):
        call("cuda:0", X)


def test_no_verdict_while_a_graph_is_captured(monkeypatch):
    call, calls = guarded(lambda x: x + x)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    call("cuda:0", X)
    assert calls == ["plain"]
    assert not call.verdicts


def test_rows_that_nobody_reads_may_be_no_numbers_in_both():
    ours = torch.tensor([1.0, float("nan")])
    assert far_apart(ours, ours.clone()) is None
    assert far_apart(ours, torch.tensor([1.0, 2.0])) is not None
