"""Checkpoints on disk: what goes in comes out, and nothing else is let in."""

import json
import random
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from stepseg.build import ModelConfig, build_policy, build_segmenter
from stepseg.checkpoint import (
    Checkpoint,
    check_data,
    describe,
    read_checkpoint,
    write_inference_checkpoint,
)
from stepseg.data.specs import get_spec
from stepseg.dcts.merge import MergeRule
from stepseg.dcts.targets import HomogeneityRule
from stepseg.model_config import (
    BackboneConfig,
    ExitConfig,
    HeadConfig,
    PolicyConfig,
    ReductionConfig,
)
from stepseg.protocol import Protocol
from stepseg.weights.fit import check_fit
from stepseg.weights.safetensors_file import MAX_HEADER, read_safetensors, write_safetensors

VALUES = {
    "num_classes": 11,
    "backbone": {"name": "vit_tiny", "depth": 2, "checkpoint": "/home/me/vit.pth"},
    "policy": {"name": "lcnet_050", "windows": [2, 4], "checkpoint": "/home/me/policy.ckpt"},
    "heads": {"num_layers": 1},
    "reduction": {
        "merge": {"windows": [2, 4], "thresholds": [0.3, 1]},
        "exit": {"blocks": [1], "threshold": 0.25},
    },
}
RULE = HomogeneityRule(ignore_breaks_homogeneity=False)
PROTOCOL = Protocol(mode="slide", crop=(64, 64), resize_short=96)
ABOUT = {"git_sha": "0123abc", "figures": {"mIoU": 12.5}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint as the trainer writes it, with random weights."""
    config = ModelConfig.from_dict(VALUES)
    torch.manual_seed(0)
    model = build_segmenter(config, load_weights=False)
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    entry = describe(config, get_spec("camvid"), PROTOCOL, RULE)
    path = tmp_path_factory.mktemp("trained") / "best.ckpt"
    torch.save({"state_dict": state, "stepseg": entry, "global_step": 7}, path)
    return path


@pytest.fixture(scope="module")
def shared(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("shared") / "model.safetensors"
    write_inference_checkpoint(path, read_checkpoint(trained), ABOUT)
    return path


def edited(shared, target, edit):
    """A copy of the shared file whose entry went through `edit`."""
    state, entry = read_safetensors(shared)
    edit(entry)
    write_safetensors(target, state, entry)
    return target


def test_a_shared_file_says_what_the_trainer_s_says(trained, shared):
    theirs, ours = read_checkpoint(trained), read_checkpoint(shared)
    assert ours.data == theirs.data
    assert ours.data["classes"][:2] == ["sky", "building"]
    assert ours.data["ignore_index"] == 255
    assert ours.protocol == theirs.protocol == PROTOCOL
    assert ours.rule == theirs.rule == RULE
    assert ours.step == theirs.step == 7
    assert (ours.about, theirs.about) == (ABOUT, {})
    assert ours.config.reduction == theirs.config.reduction
    assert ours.config.heads == theirs.config.heads


def test_local_paths_are_not_shared(shared):
    config = read_checkpoint(shared).config
    assert (config.backbone.checkpoint, config.policy.checkpoint) == (None, None)
    assert b"/home/me" not in shared.read_bytes()


def test_weights_and_predictions_are_bit_identical(trained, shared):
    theirs, ours = read_checkpoint(trained), read_checkpoint(shared)
    assert len(ours.state) > 50
    assert set(ours.state) == set(theirs.state)
    for key, value in theirs.state.items():
        assert ours.state[key].dtype == value.dtype
        assert torch.equal(ours.state[key], value), key
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        a, b = (c.build().prepare_for_inference()(images) for c in (theirs, ours))
    assert torch.equal(a.scores(), b.scores())


def test_a_shared_file_can_be_shared_again(shared, tmp_path):
    again = tmp_path / "again.safetensors"
    for _ in range(8):  # the order of a header left to chance would differ in some
        write_inference_checkpoint(again, read_checkpoint(shared))
        assert again.read_bytes() == shared.read_bytes()


def test_the_policy_alone_can_be_taken_over(shared):
    policy = build_policy(PolicyConfig("lcnet_050", windows=(2, 4), checkpoint=str(shared)))
    state = read_checkpoint(shared).state
    for key, value in policy.state_dict().items():
        assert torch.equal(value, state[f"policy.{key}"]), key


def test_what_a_file_is_counts_more_than_its_name(shared, trained, tmp_path):
    (tmp_path / "a.ckpt").write_bytes(shared.read_bytes())
    (tmp_path / "b.pth").write_bytes(trained.read_bytes())
    assert read_checkpoint(tmp_path / "a.ckpt").step == 7
    assert read_checkpoint(str(tmp_path / "b.pth")).step == 7


def test_a_failing_write_leaves_the_old_file(shared, tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("stepseg.files.writing.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_inference_checkpoint(path, read_checkpoint(shared))
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    assert path.read_bytes() == b"old"


def test_checkpoints_of_earlier_versions_are_read(trained, tmp_path):
    content = torch.load(trained, weights_only=True)
    del content["stepseg"]["protocol"], content["stepseg"]["data"]["ignore_index"]
    del content["stepseg"]["model"]["policy"]["calibration_images"]
    del content["stepseg"]["homogeneity"]
    for side in (2, 4):
        del content["state_dict"][f"model.policy.classifier.{side}.correction"]
    torch.save(content, tmp_path / "old.ckpt")
    old = read_checkpoint(tmp_path / "old.ckpt")
    assert (old.protocol, old.rule, old.data["ignore_index"]) == (None, None, 255)
    assert [float(c) for c in old.build().policy.corrections.values()] == [0, 0]


class TestWeights:
    """Every key and shape is accounted for."""

    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            (lambda s: s.pop("decoder.query_Cd"), "missing decoder.query_Cd"),
            (lambda s: s.update(extra=torch.zeros(2)), "unknown extra"),
            (
                lambda s: s.update({"decoder.presence.bias": torch.zeros(3)}),
                r"decoder.presence.bias has shape \(3,\), expected \(2,\)",
            ),
            (lambda s: s.pop("backbone.pos_embed"), "missing backbone.pos_embed"),
            (
                lambda s: s.update({"backbone.pos_embed": torch.zeros(4)}),
                r"backbone.pos_embed has shape \(4,\)",
            ),
        ],
    )
    def test_misfits_are_named(self, edit, message, shared, tmp_path):
        state, entry = read_safetensors(shared)
        edit(state)
        path = tmp_path / "model.safetensors"
        write_safetensors(path, state, entry)
        with pytest.raises(ValueError, match=f"model.safetensors' does not fit .*{message}"):
            read_checkpoint(path).build()

    def test_huge_claims_allocate_nothing(self, shared, tmp_path):
        """A configuration of gigabytes is refused by the shapes in the file."""

        def wide(entry):
            entry["model"]["heads"] |= {"dim": 3 * 2**24}

        with pytest.raises(ValueError, match=r"decoder\.query_Cd has shape"):
            read_checkpoint(edited(shared, tmp_path / "wide.safetensors", wide)).build()

        def deep(entry):
            entry["model"]["backbone"]["depth"] = 10**9

        with pytest.raises(ValueError, match=r"1000000000 of backbone.blocks.\*, it holds 2"):
            read_checkpoint(edited(shared, tmp_path / "deep.safetensors", deep)).build()


class TestForeignFiles:
    def test_safetensors_of_others(self, tmp_path):
        path = tmp_path / "vit.safetensors"
        save_file({"cls_token": torch.zeros(3)}, path)
        with pytest.raises(ValueError, match=r"vit.safetensors' is not a stepseg checkpoint"):
            read_checkpoint(path)

    @pytest.mark.parametrize("kept", [0, 5, 8, 1000, -1])
    def test_truncated(self, kept, shared, tmp_path):
        path = tmp_path / "cut.safetensors"
        path.write_bytes(shared.read_bytes()[:kept])
        with pytest.raises(ValueError, match=r"cut.safetensors' is damaged"):
            read_checkpoint(path)

    def test_huge_header(self, tmp_path):
        path = tmp_path / "model.safetensors"
        with open(path, "wb") as file:
            file.write(struct.pack("<Q", MAX_HEADER + 1) + b"{")
            file.truncate(MAX_HEADER + 100)
        with pytest.raises(ValueError, match="header of 16777217 bytes"):
            read_checkpoint(path)

    @pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"format": NaN}'])
    def test_entries_that_are_no_json(self, text, tmp_path):
        path = tmp_path / "model.safetensors"
        save_file({"a": torch.zeros(1)}, path, {"stepseg": text})
        with pytest.raises(ValueError, match="in its header is no JSON"):
            read_checkpoint(path)

    @pytest.mark.parametrize("state", [[1], {"model.a": 1}, {1: torch.zeros(1)}, None])
    def test_weights_that_are_none(self, state, trained, tmp_path):
        content = torch.load(trained, weights_only=True) | {"state_dict": state}
        torch.save(content, tmp_path / "odd.ckpt")
        with pytest.raises(ValueError, match=r"odd\.ckpt' holds no state dict"):
            read_checkpoint(tmp_path / "odd.ckpt")

    @pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
    def test_damage_anywhere(self, suffix, trained, shared, tmp_path):
        """Flipped and lost bytes: one message that names the file, or the same model's shapes."""
        draw, path = random.Random(suffix), tmp_path / f"damaged.{suffix}"
        content = (trained if suffix == "ckpt" else shared).read_bytes()
        model = read_checkpoint(shared).build()
        refused = 0
        for _ in range(40):
            data = bytearray(content)
            # Headers lie at one end or the other; weights fill nearly all between.
            places = (
                draw.randrange(20_000),
                -1 - draw.randrange(20_000),
                draw.randrange(len(data)),
            )
            place = draw.choice(places)
            if draw.random() < 0.3:
                del data[place:]
            else:
                data[place] ^= 1 << draw.randrange(8)
            path.write_bytes(data)
            try:
                checkpoint = read_checkpoint(path)
                check_fit(model.state_dict(), checkpoint.state, f"{path.name}")
            except ValueError as error:
                assert path.name in str(error)  # noqa: PT017
                refused += 1
        assert 10 < refused < 40

    @pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
    def test_pickles_run_nothing(self, suffix, tmp_path):
        class Trap:
            def __reduce__(self):
                return (open, (str(tmp_path / "trapped"), "w"))

        path = tmp_path / f"model.{suffix}"
        torch.save({"state_dict": {}, "stepseg": Trap()}, path)
        with pytest.raises(ValueError, match=r"cannot be read safely|is damaged"):
            read_checkpoint(path)
        assert not (tmp_path / "trapped").exists()


def _set(*keys_and_value):
    *keys, last, value = keys_and_value

    def edit(entry):
        for key in keys:
            entry = entry[key]
        entry[last] = value

    return edit


HOSTILE = {
    "format": (_set("format", 2), "has format 2, this version reads 1"),
    "unknown key": (_set("_target_", "os.system"), "unknown key _target_; known"),
    "no model": (lambda entry: entry.pop("model"), "model is missing"),
    "model type": (_set("model", [1]), "it is a list, not a mapping"),
    "model key": (_set("model", "_target_", "os.system"), "unknown key _target_"),
    "part key": (_set("model", "heads", "hook", "os.system"), "unknown key heads.hook"),
    "part type": (_set("model", "heads", 3), "heads is 3, expected HeadConfig"),
    "merge key": (_set("model", "reduction", "merge", "x", 1), r"unknown key reduction\.merge\.x"),
    "word for a number": (_set("model", "num_classes", "11"), "not usable"),
    "truth for a number": (_set("model", "heads", "num_layers", True), "num_layers is True"),
    "number for a word": (_set("model", "policy", "name", 4), "policy.name is 4, expected str"),
    "list of words": (_set("model", "policy", "windows", ["2"]), r"policy.windows is \('2',\)"),
    "huge number": (_set("model", "num_classes", 10**12), "num_classes is 1000000000000"),
    "mapping inside": (_set("model", "heads", "dim", {"a": 1}), "heads.dim is"),
    "no backbone": (_set("model", "backbone", "name", "vit_huge"), "choose one of vit_tiny"),
    "protocol key": (_set("protocol", "callback", "x"), "unknown key protocol.callback"),
    "protocol type": (_set("protocol", "scales", "big"), "protocol configuration is not usable"),
    "protocol number": (_set("protocol", "window_batch", 1.5), "window_batch is 1.5"),
    "rule key": (_set("homogeneity", "x", 1), "unknown key homogeneity.x"),
    "rule type": (_set("homogeneity", "ignore_index", "x"), "homogeneity.ignore_index is 'x'"),
    "classes": (_set("data", "classes", ["a"]), "names 1 classes, the model has 11"),
    "class type": (_set("data", "classes", [1] * 11), "data.classes must be words"),
    "palette": (_set("data", "palette", [[0, 0, 256]] * 11), "triples of 0..255"),
    "palette count": (_set("data", "palette", []), "a colour for each of 11"),
    "step": (_set("step", -1), "step is -1"),
    "about": (_set("about", "x" * 10), "about must be a mapping"),
    "huge about": (_set("about", {"x": "y" * 2**20}), "at most 1048576 characters"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_hostile_entries_are_refused(case, suffix, trained, shared, tmp_path):
    edit, message = HOSTILE[case]
    path = tmp_path / f"model.{suffix}"
    if suffix == "ckpt":
        entry = torch.load(trained, weights_only=True)["stepseg"] | {"step": 7, "about": {}}
        edit(entry)
        torch.save({"state_dict": {}, "stepseg": entry}, path)
    else:
        _, entry = read_safetensors(shared)
        edit(entry)
        write_safetensors(path, {}, entry)
    with pytest.raises(ValueError, match=message) as caught:
        read_checkpoint(path)
    assert path.name in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("keys", [("about",), ("model", "heads", "dim"), ("data", "classes")])
def test_lists_that_hold_one_another_are_not_written_out(keys, trained, tmp_path):
    content = torch.load(trained, weights_only=True)
    doubled: list = []
    for _ in range(60):
        doubled = [doubled, doubled]
    circle: list = []
    circle.append(circle)
    for endless in (doubled, circle):
        _set(*keys, {"notes": endless} if keys == ("about",) else endless)(content["stepseg"])
        torch.save(content, tmp_path / "endless.ckpt")
        with pytest.raises(ValueError, match=r"endless\.ckpt': .* has more than 1048576 values"):
            read_checkpoint(tmp_path / "endless.ckpt")


def test_an_entry_is_one_line_of_json(shared):
    """Other tools can read it: nothing but JSON in a key of the header."""
    with open(shared, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    entry = json.loads(header["__metadata__"]["stepseg"])
    assert entry["model"]["backbone"]["name"] == "vit_tiny"
    assert header["__metadata__"]["format"] == "pt"


def test_other_data_are_refused(shared):
    checkpoint = read_checkpoint(shared)
    assert isinstance(checkpoint, Checkpoint)
    classes = checkpoint.data["classes"]
    assert check_data(checkpoint, classes, "camvid") is None
    with pytest.raises(ValueError, match=r"predicts 11 classes \(camvid\), data 'x' has 3"):
        check_data(checkpoint, classes[:3], "x")
    swapped = [classes[1], classes[0], *classes[2:]]
    with pytest.raises(ValueError, match=r"another order .*class 0 is 'sky' there and 'building'"):
        check_data(checkpoint, swapped, "x")
    told = check_data(checkpoint, [*classes[:10], "rider"], "x")
    assert "1 of 11 classes have other names" in told
    assert "class 10 is 'bicyclist' there and 'rider' here" in told


PROBABILITIES = st.floats(0, 1)
CONFIGS = st.builds(
    ModelConfig,
    num_classes=st.just(11),
    backbone=st.builds(
        BackboneConfig,
        name=st.sampled_from(["vit_tiny", "vit_large"]),
        depth=st.none() | st.integers(1, 40),
        drop_path=PROBABILITIES,
        pos_grid=st.integers(1, 99),
        checkpoint_blocks=st.booleans(),
    ),
    policy=st.none() | st.builds(PolicyConfig, name=st.text(), windows=st.just((2, 4))),
    heads=st.builds(HeadConfig, dropout=PROBABILITIES, dim=st.none() | st.integers(1, 999)),
    reduction=st.builds(
        ReductionConfig,
        merge=st.none()
        | st.builds(
            MergeRule,
            windows=st.just((2, 4)),
            thresholds=st.tuples(PROBABILITIES, PROBABILITIES),
            edge_weight=st.floats(-2, 2),
        )
        | st.builds(
            MergeRule,
            windows=st.just((3,)),
            thresholds=st.none(),
            top_k=st.integers(0, 99),
            top_k_cells=st.none() | st.integers(1, 999),
        ),
        exit=st.none()
        | st.builds(
            ExitConfig,
            blocks=st.lists(st.integers(1, 9), max_size=3).map(tuple),
            heads=st.none() | st.just((2, 4)),
            rule=st.sampled_from(["confidence", "random", "uniform"]),
            threshold=PROBABILITIES,
            keep_per_class=st.integers(0, 9),
            seed=st.integers(0, 2**31 - 1),
        )
        | st.builds(ExitConfig, rule=st.just("budget"), tokens=st.just((9, 4))),
    ),
)
PROTOCOLS = st.none() | st.builds(
    Protocol,
    resize_short=st.none() | st.integers(1, 999) | st.tuples(*[st.integers(1, 999)] * 2),
    scales=st.lists(st.floats(0.1, 4), min_size=1, max_size=3).map(tuple),
    flip=st.booleans(),
    window_batch=st.integers(1, 9),
)


@given(config=CONFIGS, protocol=PROTOCOLS, step=st.integers(0, 2**40), name=st.text())
def test_every_configuration_comes_back(config, protocol, step, name, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    data = describe(config, get_spec("camvid"))["data"]
    about = {"name": name, "figures": [1, None, {"mIoU": 12.5}]}
    written = Checkpoint(path, config, data, {}, step, protocol, about)
    write_inference_checkpoint(path, written)
    assert read_checkpoint(path) == written
