"""Configurations become models; wrong ones become one clear message."""

from dataclasses import replace
from typing import Any

import pytest
import timm
import torch

from stepseg.build import atm_heads, build_policy, build_segmenter, resolved
from stepseg.checkpoint import Checkpoint, without_local_paths
from stepseg.dcts.merge import MergeRule
from stepseg.dcts.policy import OraclePolicy, PolicyNetwork
from stepseg.heads.exit import BudgetExit, ConfidenceExit, RandomExit, UniformExit
from stepseg.model_config import (
    BACKBONES,
    BackboneConfig,
    ExitConfig,
    HeadConfig,
    ModelConfig,
    PolicyConfig,
    ReductionConfig,
)
from stepseg.vit import timm_models
from stepseg.vit.weights import load_timm_state
from toys import toy_images

STEP: dict[str, Any] = {
    "num_classes": 19,
    "backbone": {"name": "vit_tiny", "drop_path": 0.1},
    "policy": {"name": "lcnet_050", "windows": [2, 4], "training": "frozen"},
    "heads": {"num_layers": 2, "class_source": "own"},
    "reduction": {
        "merge": {"windows": [2, 4], "thresholds": [0.6, 0.8], "resize": "area"},
        "exit": {"blocks": [6, 8], "heads": [4], "threshold": 0.95, "keep_per_class": 3},
    },
}
"""As it stands in YAML: lists, no tuples."""

HALVES: dict[str, Any] = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}

DENSE: dict[str, Any] = {"num_classes": 2, "backbone": {"name": "vit_tiny"}, "policy": None}


class TestNumbers:
    def test_the_backbones_are_those_of_the_paper(self):
        sizes = {n: (b["dim"], b["depth"], b["num_heads"]) for n, b in BACKBONES.items()}
        assert sizes == {
            "vit_tiny": (192, 12, 3),
            "vit_small": (384, 12, 6),
            "vit_base": (768, 12, 12),
            "vit_large": (1024, 24, 16),
        }
        assert [atm_heads(b["dim"]) for b in BACKBONES.values()] == [3, 3, 6, 8]
        assert [atm_heads(dim) for dim in (1536, 1280, 1152, 48, 416)] == [12, 10, 9, 1, 2]

    @pytest.mark.parametrize("name", ["vit_tiny", "vit_small"])
    def test_weights_of_timm_fit(self, name):
        model = build_segmenter(ModelConfig.from_dict(DENSE | {"backbone": {"name": name}}))
        theirs = timm.create_model(f"{name}_patch16_224", pretrained=False)
        load_timm_state(model.backbone, theirs.state_dict(), name)
        assert model.backbone.numbers.num_heads == theirs.blocks[0].attn.num_heads  # type: ignore[union-attr, index]

    def test_heads_have_half_the_channels(self):
        model = build_segmenter(ModelConfig.from_dict(DENSE))
        head: Any = model.decoder
        assert (head.head_dim, head.num_heads, len(head.layers)) == (96, 3, 3)
        assert head.query_Cd.shape == (2, 96)

    def test_defaults_are_the_paper(self):
        assert MergeRule() == MergeRule((2, 4, 8, 16), (0.6, 0.8, 0.9, 0.9))
        assert ExitConfig().build() == ConfidenceExit(0.9, 5)
        assert PolicyConfig().name == "efficientnet_lite0"
        assert HeadConfig() == HeadConfig(num_layers=3, dropout=0.1, class_source="final")


class TestSegmenter:
    def test_all_numbers_arrive(self):
        model = build_segmenter(ModelConfig.from_dict(STEP))
        decoder: Any = model.decoder
        policy: Any = model.policy
        assert model.num_classes == 19
        assert model.backbone.dim == 192
        assert [b.drop_path.rate for b in model.backbone.blocks][-1] == pytest.approx(0.1)  # type: ignore[union-attr]
        assert len(decoder.layers) == 2
        assert model.class_source == "own"
        assert model.exit_head_blocks == [4, 6, 8]
        assert model.reduction.exit_blocks == (6, 8)
        assert model.reduction.exit == ConfidenceExit(0.95, 3)
        assert model.reduction.merge == MergeRule((2, 4), (0.6, 0.8), resize="area")
        assert isinstance(policy, PolicyNetwork)
        assert (policy.windows, policy.training_mode) == ((2, 4), "frozen")
        result = model.eval()(toy_images(1, 64, 64))
        assert result.prediction().shape == (1, 64, 64)
        assert [head.block for head in result.heads] == [6, 8, 12]

    def test_another_depth(self):
        backbone = {"name": "vit_tiny", "depth": 5}
        model = build_segmenter(ModelConfig.from_dict(DENSE | {"backbone": backbone}))
        assert (model.backbone.depth, len(model.backbone.blocks)) == (5, 5)
        with pytest.raises(ValueError, match=r"exit block 6 is outside 1\.\.4"):
            build_segmenter(ModelConfig.from_dict(changed(backbone=backbone)))

    def test_a_dense_baseline(self):
        model = build_segmenter(ModelConfig.from_dict(DENSE))
        assert model.policy is None
        assert model.exit_head_blocks == []
        assert (model.reduction.merge, model.reduction.exit) == (None, None)

    def test_heads_without_exits(self):
        """Heads that are trained now and let tokens leave later."""
        config = DENSE | {"reduction": {"exit": {"heads": [2, 10]}}}
        model = build_segmenter(ModelConfig.from_dict(config))
        assert model.exit_head_blocks == [2, 10]
        assert model.reduction.exit is None
        assert model.reduction.exit_blocks == ()

    def test_every_head_has_weights_of_its_own(self):
        config = DENSE | {"reduction": {"exit": {"heads": [2, 10]}}}
        model = build_segmenter(ModelConfig.from_dict(config))
        queries = [h.get_parameter("query_Cd") for h in model.exit_heads.values()]
        assert not torch.equal(*queries)

    @pytest.mark.parametrize(
        ("values", "rule"),
        [
            ({"threshold": 0.5, "keep_per_class": 2}, ConfidenceExit(0.5, 2)),
            ({"rule": "random", "seed": 4}, RandomExit(ConfidenceExit(0.9, 5), 4)),
            ({"rule": "uniform", "threshold": 0.8}, UniformExit(ConfidenceExit(0.8, 5))),
            ({"rule": "budget", "tokens": [40, 20]}, BudgetExit((40, 20))),
        ],
    )
    def test_rules(self, values, rule):
        assert ExitConfig.from_dict(values).build() == rule

    def test_the_policy_of_the_paper_has_an_alias(self):
        policy = build_policy(PolicyConfig(windows=(2, 4)))
        assert policy.name == "tf_efficientnet_lite0"

    def test_the_oracle(self):
        policy = build_policy(PolicyConfig(name="oracle", windows=(2, 8)))
        assert isinstance(policy, OraclePolicy)
        assert policy.windows == (2, 8)


class TestWeights:
    def test_a_checkpoint_of_the_backbone(self, tmp_path):
        theirs = timm.create_model("vit_tiny_patch16_384", pretrained=False, num_classes=3)
        torch.save(theirs.state_dict(), tmp_path / "vit.pth")
        backbone = {"name": "vit_tiny", "checkpoint": str(tmp_path / "vit.pth")} | HALVES
        model = build_segmenter(ModelConfig.from_dict(DENSE | {"backbone": backbone}))
        key = "blocks.11.mlp.fc2.weight"
        assert torch.equal(model.backbone.get_parameter(key), theirs.get_parameter(key))
        assert model.backbone.pos_embed.shape == (1, 24 * 24, 192)

    def test_the_grid_of_the_backbone_comes_back_out_of_a_full_checkpoint(self, tmp_path):
        """Weights of 384 px have 24 x 24 positions, whatever the configuration says."""
        theirs = timm.create_model("vit_tiny_patch16_384", pretrained=False)
        torch.save(theirs.state_dict(), tmp_path / "vit.pth")
        backbone = {"name": "vit_tiny", "checkpoint": str(tmp_path / "vit.pth")} | HALVES
        config = ModelConfig.from_dict(DENSE | {"backbone": backbone})
        trained = build_segmenter(config)
        (tmp_path / "vit.pth").unlink()
        checkpoint = Checkpoint(tmp_path / "last.ckpt", config, {}, trained.state_dict(), step=1)
        model = checkpoint.build()
        images = toy_images(1, 64, 64)
        assert torch.equal(model.eval()(images).scores(), trained.eval()(images).scores())

    def test_nothing_is_read_when_a_full_checkpoint_follows(self, monkeypatch):
        def refuse(*args, **kwargs):
            raise AssertionError("read weights")

        create_model = timm.create_model
        monkeypatch.setattr("stepseg.build.load_timm_checkpoint", refuse)
        monkeypatch.setattr("stepseg.build.load_timm_pretrained", refuse)
        monkeypatch.setattr(
            timm,
            "create_model",
            lambda name, *, pretrained=False, **rest: (
                refuse() if pretrained else create_model(name, **rest)
            ),
        )
        for backbone in (
            {"checkpoint": "gone.pth"} | HALVES,
            {"pretrained": "vit_tiny_patch16_224"},
        ):
            values = STEP | {
                "backbone": {"name": "vit_tiny"} | backbone,
                "policy": STEP["policy"] | {"pretrained": True, "checkpoint": "gone.ckpt"},
            }
            build_segmenter(ModelConfig.from_dict(values), load_weights=False)
            with pytest.raises(AssertionError, match="read weights"):
                build_segmenter(ModelConfig.from_dict(values))

    def test_a_checkpoint_keeps_the_normalisation_of_its_pretrained_weights(self, tmp_path):
        """Though a reader does not load them, and the name of a file is not passed on."""
        torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), tmp_path / "vit.pth")
        file = {"checkpoint": str(tmp_path / "vit.pth"), "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}
        named = {"pretrained": "deit_tiny_patch16_224.fb_in1k"}
        for backbone, mean in ((named, (0.485, 0.456, 0.406)), (file, (0.1, 0.2, 0.3))):
            config = ModelConfig.from_dict(DENSE | {"backbone": {"name": "vit_tiny"} | backbone})
            entry = without_local_paths(resolved(config)).to_dict()
            model = build_segmenter(ModelConfig.from_dict(entry), load_weights=False)
            torch.testing.assert_close(model.backbone.mean.flatten(), torch.tensor(mean))

    def test_an_older_checkpoint_was_trained_with_halves(self):
        backbone = {"name": "vit_tiny", "pretrained": "deit_tiny_patch16_224.fb_in1k"}
        config = ModelConfig.from_dict(DENSE | {"backbone": backbone})
        model = build_segmenter(config, load_weights=False)
        assert model.backbone.mean.unique() == model.backbone.std.unique() == 0.5

    @pytest.mark.parametrize("prefix", ["model.policy.", "policy."])
    def test_a_policy_trained_before(self, tmp_path, prefix):
        config = PolicyConfig(name="lcnet_050", windows=(2, 4))
        trained = build_policy(config)
        state = {prefix + key: value for key, value in trained.state_dict().items()}
        path = tmp_path / "policy.ckpt"
        torch.save({"state_dict": state | {"model.decoder.x": torch.ones(1)}}, path)
        policy = build_policy(replace(config, checkpoint=str(path)))
        for key, value in policy.state_dict().items():
            assert torch.equal(value, trained.state_dict()[key]), key

    def test_a_policy_from_the_folder_of_a_run_or_the_hub(self, tmp_path, monkeypatch):
        config = PolicyConfig(name="lcnet_050")
        state = {"policy." + k: v for k, v in build_policy(config).state_dict().items()}
        best = tmp_path / "checkpoints" / "best.ckpt"
        best.parent.mkdir()
        torch.save({"state_dict": state}, best)
        monkeypatch.setattr("stepseg.weights.place.download", lambda address: best)
        for place in (str(tmp_path), "hf://ada/pond"):
            read = build_policy(replace(config, checkpoint=place)).state_dict()
            assert all(torch.equal(read[k.removeprefix("policy.")], v) for k, v in state.items())

    def test_a_policy_of_another_kind(self, tmp_path):
        trained = build_policy(PolicyConfig(name="lcnet_050", windows=(2, 4)))
        state = {"policy." + key: value for key, value in trained.state_dict().items()}
        path = tmp_path / "policy.ckpt"
        torch.save({"state_dict": state}, path)
        config = PolicyConfig(name="lcnet_050", windows=(2, 4, 8), checkpoint=str(path))
        with pytest.raises(ValueError, match=r"does not fit .*'lcnet_050'.*\(2, 4, 8\)"):
            build_policy(config)

    def test_a_policy_checkpoint_that_is_none(self, tmp_path):
        with pytest.raises(ValueError, match=r"policy\.checkpoint=.*gone\.ckpt' does not exist"):
            build_policy(PolicyConfig(name="lcnet_050", checkpoint=str(tmp_path / "gone.ckpt")))
        torch.save({"weights": 1}, tmp_path / "other.ckpt")
        with pytest.raises(ValueError, match=r"other\.ckpt' holds no state dict"):
            build_policy(PolicyConfig(name="lcnet_050", checkpoint=str(tmp_path / "other.ckpt")))


DINOV3: dict[str, Any] = {"name": "vit_tiny_patch16_dinov3_qkvb", "depth": 2}


class TestTimmBackbones:
    def config(self, **backbone: Any) -> ModelConfig:
        return resolved(ModelConfig.from_dict(DENSE | {"backbone": DINOV3 | backbone}))

    def test_numbers_and_normalisation_are_timms(self):
        config = self.config(rope_jitter=1.5, rope_bfloat16=True)
        model = build_segmenter(config)
        numbers = model.backbone.numbers
        assert (numbers.dim, numbers.depth, numbers.prefix, numbers.eps) == (192, 2, 5, 1e-5)
        assert numbers.rope is not None
        assert (numbers.rope.jitter, numbers.rope.bfloat16_periods) == (1.5, True)
        assert config.backbone.mean == (0.485, 0.456, 0.406)
        assert model(toy_images(1)).prediction().shape == (1, 80, 112)

    def test_a_checkpoint_needs_no_timm(self, monkeypatch):
        """It says all numbers itself, whatever timm makes of the name later."""
        config = self.config()
        model = build_segmenter(config)
        entry = without_local_paths(config).to_dict()
        monkeypatch.setattr(timm_models, "architecture_of", lambda name: 1 / 0)
        again = build_segmenter(ModelConfig.from_dict(entry), load_weights=False)
        again.load_state_dict(model.state_dict())
        assert again.backbone.numbers == model.backbone.numbers

    def test_a_file_of_weights_for_other_patches(self, tmp_path):
        theirs = timm.create_model("vit_small_patch14_reg4_dinov2", depth=1)
        torch.save(theirs.state_dict(), tmp_path / "dinov2.pth")
        backbone = {"name": "vit_small_patch14_reg4_dinov2", "depth": 1}
        config = self.config(**backbone, checkpoint=str(tmp_path / "dinov2.pth"))
        vit = build_segmenter(config).backbone
        assert vit.patch_embed.proj.weight.shape == (384, 3, 16, 16)
        assert vit.pos_embed is not None
        assert vit.pos_embed.shape == (1, 37 * 37, 384)
        assert config.backbone.mean == (0.485, 0.456, 0.406)

    def test_patches_that_no_policy_tiles(self):
        values = changed(backbone={"name": "vit_small_patch14_dinov2", "patch_size": 14})
        with pytest.raises(ValueError, match=r"resampled with backbone\.patch_size=16"):
            build_segmenter(ModelConfig.from_dict(values), load_weights=False)

    def test_what_only_an_attack_claims(self):
        entry = self.config().to_dict()
        entry["backbone"]["name"] = "../../etc/passwd"
        with pytest.raises(ValueError, match="is no name of a model"):
            ModelConfig.from_dict(entry)
        entry["backbone"]["name"] = "any_name"
        assert ModelConfig.from_dict(entry).backbone.numbers().dim == 192
        entry["backbone"]["architecture"]["dim"] = 2**30
        with pytest.raises(ValueError, match="1073741824 channels is none"):
            ModelConfig.from_dict(entry)


class TestPlainData:
    @pytest.mark.parametrize("values", [STEP, DENSE], ids=["step", "dense"])
    def test_a_configuration_survives_a_checkpoint(self, values, tmp_path):
        config = ModelConfig.from_dict(values)
        torch.save(config.to_dict(), tmp_path / "config.pt")
        plain = torch.load(tmp_path / "config.pt", weights_only=True)
        assert ModelConfig.from_dict(plain) == config

    @pytest.mark.parametrize("top_k", [103, [40, 8]])
    def test_counts_of_cts_survive(self, top_k):
        windows = [2, 4] if isinstance(top_k, list) else [2]
        merge = {"windows": windows, "thresholds": None, "top_k": top_k}
        config = ReductionConfig.from_dict({"merge": merge})
        again = ModelConfig(2, reduction=config).to_dict()["reduction"]
        assert again["merge"]["top_k"] == top_k
        assert ReductionConfig.from_dict(again) == config

    def test_lists_become_tuples(self):
        config = ModelConfig.from_dict(STEP)
        assert config.policy is not None
        assert config.policy.windows == (2, 4)
        assert config.reduction.exit is not None
        assert config.reduction.exit.blocks == (6, 8)
        hash(config)

    def test_absent_and_null_parts_are_off(self):
        for values in ({}, {"merge": None, "exit": None}):
            reduction = ReductionConfig.from_dict(values).build()
            assert (reduction.merge, reduction.exit) == (None, None)


def changed(**parts: Any) -> dict[str, Any]:
    """`STEP` with some keys of its parts replaced."""
    return {
        key: value | parts[key] if isinstance(value, dict) and key in parts else value
        for key, value in STEP.items()
    } | {key: value for key, value in parts.items() if not isinstance(value, dict)}


class TestWrongConfigurations:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (changed(num_classes=1), "num_classes must be at least 2, got 1"),
            (STEP | {"bakcbone": {}}, "unknown key bakcbone; .* 'backbone'"),
            (changed(backbone={"drop_paht": 0.1}), "backbone.drop_paht; .*'drop_path'"),
            (changed(backbone={"name": "vit_bass"}), "backbone.name='vit_bass': .*'vit_base'"),
            (changed(backbone={"depth": 0}), "backbone.depth .* must be positive, got 0"),
            (changed(backbone={"name": "resnet"}), "choose one of vit_tiny, vit_small, vit_base"),
            (
                changed(backbone={"name": "vit_base_patch16_dinov4"}),
                "supported model of timm .*near it: vit_base_patch16_dinov3",
            ),
            (changed(backbone={"name": "hf-hub:a/b"}), "name='hf-hub:a/b': choose one of vit_tiny"),
            (
                changed(backbone={"name": "swin_tiny_patch4_window7_224"}),
                "needs a model of the class SwinTransformer, which is not supported",
            ),
            (changed(backbone={"rope_jitter": 1.1}), "rotary positions, .*'vit_tiny' has not"),
            (
                changed(backbone={"pretrained": "a", "checkpoint": "b"}),
                "pretrained='a' and backbone.checkpoint='b' exclude",
            ),
            (changed(backbone={"mean": [124, 116, 104]}), r"backbone.mean is of RGB in \[0, 1\]"),
            (changed(backbone={"std": [0.2, 0.2]}), "backbone.std is .*, expected tuple"),
            (changed(backbone={"std": [0.2, 0, 0.2]}), "std divides and must be positive"),
            (changed(policy={"window": [2]}), "policy.window; .*'windows'"),
            (changed(heads={"layers": 3}), "heads.layers; .*'num_layers'"),
            (changed(reduction={"merges": {}}), "reduction.merges; did you mean 'merge'"),
            (
                changed(reduction={"merge": {"threshold": [0.5]}}),
                "reduction.merge.threshold; .*'thresholds'",
            ),
            (
                changed(reduction={"merge": {"windows": [2, 3], "thresholds": [0.5, 0.5]}}),
                "each divide the next",
            ),
            (
                changed(reduction={"merge": {"windows": [2], "thresholds": [1.5]}}),
                r"in \[0, 1\], got 1.5",
            ),
            (
                changed(reduction={"exit": {"blocks": [6], "rule": "confident"}}),
                "rule='confident': did you mean 'confidence'",
            ),
            (
                changed(reduction={"exit": {"blocks": [6], "threshold": 2}}),
                r"exit threshold .* in \[0, 1\], got 2",
            ),
            (
                changed(reduction={"exit": {"blocks": [6], "tokens": [100]}}),
                r"tokens=\(100,\) belongs to the rule 'budget', not 'confidence'",
            ),
            (
                changed(reduction={"exit": {"blocks": [6], "rule": "budget"}}),
                "exit budget needs a number of tokens",
            ),
            *(
                (changed(backbone={"frozen": True, **learned}), "keeps no graph and stays in eval")
                for learned in (
                    {"checkpoint_blocks": True},
                    {"rope_shift": 0.1},
                    {"rope_jitter": 1.2},
                    {"rope_rescale": 1.2},
                )
            ),
        ],
    )
    def test_are_refused_when_read(self, values, message):
        with pytest.raises(ValueError, match=message):
            ModelConfig.from_dict(values)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (changed(reduction={"exit": {"blocks": [12]}}), r"exit block 12 is outside 1\.\.11"),
            (changed(reduction={"exit": {"heads": [0]}}), r"exit block 0 is outside 1\.\.11"),
            (changed(reduction={"exit": {"blocks": [8, 6]}}), "ascend without repetition"),
            (changed(policy={"windows": [2]}), r"policy scores windows \(2,\), not \[4\]"),
            (STEP | {"policy": None}, "needs a policy network, this model has none"),
            (changed(heads={"class_source": "last"}), "'final' or 'own', got 'last'"),
            (changed(heads={"num_heads": 5}), "96 channels do not divide into 5 ATM heads"),
            (changed(policy={"training": "no"}), "'frozen' or 'joint', got 'no'"),
            (changed(policy={"name": "lcnet_999"}), "timm has no model 'lcnet_999'"),
            (changed(backbone={"drop_path": 1.5}), r"drop path rate must lie in \[0, 1\)"),
        ],
    )
    def test_are_refused_when_built(self, values, message):
        config = ModelConfig.from_dict(values)
        with pytest.raises(ValueError, match=message):
            build_segmenter(config)

    def test_a_backbone_of_another_size(self, tmp_path):
        theirs = timm.create_model("vit_small_patch16_224", pretrained=False, depth=12)
        torch.save(theirs.state_dict(), tmp_path / "small.pth")
        backbone = BackboneConfig(
            "vit_tiny", mean=(0.5,) * 3, std=(0.5,) * 3, checkpoint=str(tmp_path / "small.pth")
        )
        with pytest.raises(ValueError, match=r"small\.pth is not a checkpoint of this ViT"):
            build_segmenter(ModelConfig(2, backbone=backbone, policy=None))
