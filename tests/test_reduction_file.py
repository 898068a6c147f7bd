"""`reduction=<file>`: what stepseg-tune writes, read by all commands and from Python."""

import pytest

from commands import compose_config
from stepseg.cli.config import checkpoint_reduction, plain
from stepseg.cli.hydra_command import composition_message
from stepseg.cli.reduction_file import register_reduction_files
from stepseg.dcts.merge import MergeRule
from stepseg.grid.systems import named_system
from stepseg.merging.rules import Algm
from stepseg.model_config import ExitConfig, InputConfig, ModelConfig, ReductionConfig
from stepseg.reduction_file import read_reduction, read_values, write_reduction

TUNED = ReductionConfig(
    merge=MergeRule((2, 4), (0.25, 0.75)), exit=ExitConfig(blocks=(3,), threshold=0.6)
)
OWN = ReductionConfig(merge=MergeRule(), exit=ExitConfig(blocks=(2, 3)))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "reduction.yaml"
    write_reduction(path, TUNED, "tuned", {"target": {"gmacs": 3.0}})
    return path


@pytest.mark.parametrize(
    "reduction",
    [
        TUNED,
        ReductionConfig(inside=Algm(threshold=0.7), input=InputConfig(20)),
        ReductionConfig(merge=MergeRule((2,), None, top_k=7, top_k_cells=64)),
    ],
)
def test_what_is_written_is_read(tmp_path, reduction):
    write_reduction(tmp_path / "r.yaml", reduction, "mine", {})
    assert read_reduction(tmp_path / "r.yaml") == reduction


@pytest.mark.parametrize("command", ["eval", "predict", "export", "tune", "train", "benchmark"])
def test_every_command_takes_the_file(file, tmp_path, command):
    register_reduction_files()
    typed = [f"reduction={file}"]
    values = plain(compose_config(command, typed, tmp_path / "run"))
    if command == "benchmark":
        assert values["reduction"]["name"] == "tuned"
        return
    config = ModelConfig(11, reduction=OWN)
    assert ReductionConfig.from_dict(checkpoint_reduction(values["reduction"], config)) == TUNED


def test_a_file_is_a_system_too(file):
    assert named_system(str(file), {}, OWN) == TUNED


def test_what_is_no_file_or_no_reduction_is_told_in_one_line(tmp_path):
    register_reduction_files()
    with pytest.raises(Exception, match="gone") as error:
        compose_config("eval", ["reduction=gone/r.yaml"], tmp_path / "run")
    message = composition_message(error.value, "eval")
    assert message == "reduction=gone/r.yaml: there is no such file"
    for text, problem in [
        ("merge: {thresholds: [.5], windos: [2]}", "unknown key reduction.merge.windos"),
        ("a: 1", "it has none of merge, exit, inside, input, budget"),
        ("merge: {windows: [2], thresholds: [7]}", "probabilities"),
        ("- 1", "it has none of"),
        ("merge: {", "not valid YAML"),
    ]:
        path = tmp_path / "bad.yaml"
        path.write_text(text)
        with pytest.raises(ValueError, match=problem) as told:
            read_values(path)
        assert "bad.yaml is no reduction" in str(told.value)
        with pytest.raises(Exception, match=problem):
            compose_config("eval", [f"reduction={path}"], tmp_path / "run")
