"""A certified sequence that was killed goes on to what it would have been."""

import pytest

from stepseg.model_config import ReductionConfig
from stepseg.tuning import sequence as module
from stepseg.tuning.certificate import Promise
from stepseg.tuning.changes import Changes
from stepseg.tuning.sequence import AT_ONCE, STEPS, certify_sequence


def test_what_costs_more_than_it_saves_is_not_chosen(tmp_path):
    """A policy runs for every merging, however little merges."""
    files = [tmp_path / f"{n:02d}.png" for n in range(40)]
    for file in files:
        file.write_bytes(file.name.encode())
    sequence = [ReductionConfig() for _ in range(STEPS)]

    def certified(dense):
        def look(file, part):
            return Changes([0.001] * len(part), [9.0] * len(part), dense)

        promise = Promise(alpha=0.1, delta=0.1, bound="mean")
        return certify_sequence(promise, sequence, files, look, tmp_path / str(dense), {}, 0)

    assert certified(9.1).chosen == certified(None).chosen == sequence[0]
    with pytest.raises(ValueError, match=r"at least 9 GMACs where no reduction takes 8\.9"):
        certified(8.9).chosen  # noqa: B018


class KilledError(Exception):
    pass


@pytest.mark.parametrize("share", [1e-4, 0.01], ids=["to the end", "until it breaks"])
@pytest.mark.parametrize("after", [3, 44, 59])  # looks; of forty images each
def test_a_killed_sequence_goes_on(after, share, tmp_path, monkeypatch):
    files = [tmp_path / f"{n:02d}.png" for n in range(40)]
    for file in files:
        file.write_bytes(file.name.encode())
    sequence = [ReductionConfig() for _ in range(STEPS)]
    looks = []

    def look(file, part, most=None):
        if most is not None and len(looks) == most:
            raise KilledError
        looks.append(file)
        first = AT_ONCE * sum(seen == file for seen in looks[:-1])
        place = [first + k + 1 for k in range(len(part))]
        return Changes([share * k for k in place], [20.0 - k for k in place])

    def certified(folder, most=None):
        promise = Promise(alpha=0.1, delta=0.1, bound="mean")
        return certify_sequence(
            promise, sequence, files, lambda f, part: look(f, part, most), folder, {"a": 1}, 0
        )

    expected = certified(tmp_path / "whole")
    total = len(looks)
    assert total == {1e-4: 160, 0.01: 80}[share]
    looks.clear()
    stopped = min(after, total - 1)
    monkeypatch.setattr(module, "EVERY", -1.0)  # all that is known is written
    with pytest.raises(KilledError):
        certified(tmp_path / "killed", stopped)
    tested = certified(tmp_path / "killed")
    assert tested.as_dict() == expected.as_dict()
    assert tested.gmacs == expected.gmacs
    assert len(looks) == total
