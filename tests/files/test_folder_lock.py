"""One process holds a folder; what was left behind holds nobody up."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from stepseg.files import folder_lock as module
from stepseg.files.folder_lock import NAME, FolderInUseError, folder_lock

HOLD = """
import sys
from pathlib import Path
from stepseg.files.folder_lock import folder_lock
with folder_lock(Path(sys.argv[1]), "stepseg-first"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_is_told_who_is_first(holder, tmp_path):
    message = rf"in use by stepseg-first \(process {holder.pid} on {socket.gethostname()}, since 2"
    with pytest.raises(FolderInUseError, match=message), folder_lock(tmp_path, "stepseg-second"):
        pass
    holder.communicate(b"")
    with folder_lock(tmp_path, "stepseg-second"):
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_holds_nothing(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / NAME).is_file()
    with folder_lock(tmp_path, "stepseg-second"):
        pass


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("dear")
    (tmp_path / NAME).symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match=NAME), folder_lock(tmp_path, "a"):
        pass
    assert (tmp_path / "victim").read_text() == "dear"


ELSEWHERE = {"pid": 1, "host": "elsewhere", "command": "stepseg-first", "since": "then"}


@pytest.mark.parametrize(
    ("note", "free"),
    [
        (json.dumps(ELSEWHERE), False),
        (json.dumps(ELSEWHERE | {"host": socket.gethostname(), "pid": 1}), False),
        (json.dumps(ELSEWHERE | {"host": socket.gethostname(), "pid": 2**31 - 2}), True),
        (json.dumps(ELSEWHERE | {"host": socket.gethostname(), "pid": 10**30}), True),
        ("", True),
        ("[" * 1000, True),
        (json.dumps({"pid": [1]}), True),
    ],
)
def test_where_the_file_system_knows_no_locks_the_note_decides(note, free, tmp_path, monkeypatch):
    def unsupported(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module.fcntl, "lockf", unsupported)
    (tmp_path / NAME).write_text(note)
    if free:
        with folder_lock(tmp_path, "a"):
            pass
        return
    with (
        pytest.raises(FolderInUseError, match="in use by stepseg-first"),
        folder_lock(tmp_path, "a"),
    ):
        pass
    assert (tmp_path / NAME).read_text() == note
    monkeypatch.setenv("GPU_POOL_HOLDS", str(tmp_path))  # a launcher has seen it end
    with folder_lock(tmp_path, "a"):
        pass
