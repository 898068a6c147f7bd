"""Who holds a folder, told by files alone."""

import os
import subprocess
import sys
import time

import pytest

from gpu_pool import lease as module
from gpu_pool.lease import FolderTakenError, Watch, await_all, take


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(module, "SILENCE", 0.4)
    monkeypatch.setattr(module, "LOOK", 0.05)
    monkeypatch.setattr(module, "BEAT", 0.0)


def elsewhere(path, count=1):
    """A sign of life from another machine."""
    path.write_text(f"far {'another-boot'} 1 {count}\n")


def test_a_living_holder_is_named_and_a_released_lease_is_free(tmp_path):
    path = tmp_path / "lease"
    first = take(path, 0)
    assert first.beat()
    assert not Watch().is_gone(path)
    first.release()
    assert list(tmp_path.iterdir()) == []
    take(path, 0).release()


class Living:
    """Beats whenever somebody looks."""

    def __init__(self, path, monkeypatch, looks=10**6):
        self.path, self.count, self.looks = path, 0, looks
        monkeypatch.setattr(module.time, "sleep", self.sleep)

    def sleep(self, seconds):
        self.count += 1
        if self.count < self.looks:
            elsewhere(self.path, self.count)
        elif self.path.is_file():
            self.path.unlink()


def test_who_beats_elsewhere_is_waited_for_and_then_named(tmp_path, monkeypatch):
    path = tmp_path / "lease"
    elsewhere(path)
    Living(path, monkeypatch)
    with pytest.raises(FolderTakenError, match=rf"{tmp_path} is in use by process 1 on far"):
        take(path, 0.05)
    with pytest.raises(FolderTakenError, match="on far"):
        await_all([path, tmp_path / "none"], 0.05)
    Living(path, monkeypatch, looks=5)
    await_all([path], 60)
    take(path, 0).release()


def test_who_is_silent_elsewhere_is_gone(tmp_path):
    path = tmp_path / "lease"
    elsewhere(path)
    since = time.monotonic()
    assert take(path, 0).beat()
    assert time.monotonic() - since > 0.4


def test_a_dead_process_of_this_machine_is_gone_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SILENCE", 1e6)
    path = tmp_path / "lease"
    code = (
        "import sys, pathlib; from gpu_pool.lease import take; take(pathlib.Path(sys.argv[1]), 0)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert path.is_file()
    take(path, 0).release()


def test_what_was_taken_over_is_lost_and_left_alone(tmp_path):
    path = tmp_path / "lease"
    first = take(path, 0)
    path.unlink()
    second = take(path, 0)
    assert not first.beat()
    first.release()
    assert path.is_file()
    assert second.beat()


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("dear")
    (tmp_path / "lease").symlink_to(tmp_path / "victim")
    take(tmp_path / "lease", 0)  # nobody writes there: the link goes
    assert (tmp_path / "victim").read_text() == "dear"


def test_a_file_system_that_fails_is_forgiven_for_a_while(tmp_path, monkeypatch):
    held = take(tmp_path / "lease", 0)

    def fails(handle):
        raise OSError("no answer")

    monkeypatch.setattr(os, "fsync", fails)
    assert held.beat()
    held._written -= 0.3
    assert not held.beat()
