import pytest

from run_results import evaluation, training, write
from stepseg.report.runs import collect


def test_states_are_kept_apart(tmp_path):
    write(tmp_path / "a", training())
    write(tmp_path / "b", training(status="failed", error="ValueError: no"))
    write(tmp_path / "c", training(status="interrupted"))
    write(tmp_path / "d", training(status="running"))
    (tmp_path / "sweep/3/.hydra").mkdir(parents=True)
    found = collect([tmp_path])
    assert [run.folder.name for run in found.completed] == ["a"]
    assert [run.status for run in found.unfinished] == ["failed", "interrupted", "running"]
    assert found.pending == [tmp_path / "sweep/3"]
    assert found.problems == []


def test_a_file_below_two_given_folders_counts_once(tmp_path):
    path = write(tmp_path / "a/b", training())
    found = collect([tmp_path, tmp_path / "a", path])
    assert len(found.completed) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"status": "comp', "half-written, or no JSON"),
        ("[1, 2]", "holds a list"),
        ('{"answer": 42}', "has no 'status'"),
        ('{"status": "completed"}', "has no 'command'"),
        ('{"status": "fine", "command": "stepseg-eval"}', "unknown status 'fine'"),
        ("", "half-written"),
    ],
)
def test_unusable_files_are_named_and_the_rest_is_read(tmp_path, text, message):
    path = write(tmp_path / "bad", text)
    write(tmp_path / "good", evaluation([]))
    found = collect([tmp_path])
    assert len(found.completed) == 1
    (problem,) = found.problems
    assert problem.path == path
    assert message in problem.message


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "result.json").write_bytes(b"\xff\xfe\x00")
    (problem,) = collect([tmp_path]).problems
    assert "cannot be read" in problem.message


def test_nothing_to_collect(tmp_path):
    with pytest.raises(ValueError, match=r"no result\.json below"):
        collect([tmp_path])
    with pytest.raises(ValueError, match="does not exist"):
        collect([tmp_path / "nowhere"])
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="is a file"):
        collect([tmp_path / "notes.txt"])


def test_a_link_to_a_run_is_followed(tmp_path):
    write(tmp_path / "disk/a", training())
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/a").symlink_to(tmp_path / "disk/a")
    assert [run.folder for run in collect([tmp_path / "runs"]).completed] == [tmp_path / "runs/a"]
