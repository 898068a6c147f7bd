"""Weights of timm load completely or not at all, with a message that names what is wrong."""

import socket
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_patch_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from stepseg import from_timm
from stepseg.vit.staged import StagedViT
from stepseg.vit.timm_models import read_architecture
from stepseg.vit.weights import load_timm_checkpoint, load_timm_pretrained, load_timm_state
from timm_families import timm_model
from toys import new_vit


def our_vit(**changes: Any) -> StagedViT:
    return new_vit(**({"dim": 32, "depth": 2, "num_heads": 2, "pos_grid": 7} | changes))


def timm_state(grid: tuple[int, int] = (4, 4), **changes: Any) -> dict[str, Tensor]:
    numbers = {
        "img_size": (grid[0] * 16, grid[1] * 16),
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 2,
        "num_classes": 7,
    }
    return VisionTransformer(**(numbers | changes)).state_dict()  # type: ignore[arg-type]


def positions(count: int, dim: int = 32) -> Tensor:
    """Position embeddings that say where they come from."""
    return torch.arange(float(count))[None, :, None].expand(1, count, dim).contiguous()


class TestState:
    def test_all_weights_arrive(self):
        state = timm_state()
        vit = our_vit()
        load_timm_state(vit, state, "test")
        for key, value in vit.state_dict().items():
            expected = state[key][:, 1:] if key == "pos_embed" else state[key]
            assert torch.equal(value, expected), key

    def test_what_a_plain_encoder_lacks_is_left_out(self):
        state = timm_state(global_pool="avg", class_token=False, reg_tokens=0)
        assert {"fc_norm.weight", "head.weight"} <= set(state)
        load_timm_state(our_vit(), state, "test")
        state = timm_state()
        assert {"cls_token", "norm.weight", "head.weight"} <= set(state)
        load_timm_state(our_vit(), state, "test")

    @pytest.mark.parametrize(
        ("changes", "stored", "first"),
        [
            ({}, 17, 1),
            ({"class_token": False, "global_pool": "avg"}, 16, 0),
            ({"reg_tokens": 4}, 21, 5),
            ({"no_embed_class": True}, 16, 0),
            ({"reg_tokens": 4, "no_embed_class": True}, 16, 0),
        ],
        ids=["class token", "none", "registers", "no position", "registers without position"],
    )
    def test_positions_of_extra_tokens_are_dropped(self, changes, stored, first):
        state = timm_state(**changes)
        assert state["pos_embed"].shape[1] == stored
        state["pos_embed"] = positions(stored)
        vit = our_vit()
        load_timm_state(vit, state, "test")
        assert vit.pos_embed[0, :, 0].tolist() == list(range(first, first + 16))
        assert vit.pos_embed.requires_grad

    @pytest.mark.parametrize("name", ["pos_embed", "cls_token"])
    @pytest.mark.parametrize("shape", [(17,), (), (1, 17), (1, 1, 17, 32)])
    def test_positions_and_tokens_of_another_form(self, name, shape):
        state = timm_state() | {name: torch.zeros(shape)}
        with pytest.raises(ValueError, match=rf"{name} has shape .*, expected \(1, tokens, 32\)"):
            load_timm_state(our_vit(), state, "test")

    def test_a_missing_key(self):
        state = timm_state()
        del state["blocks.1.attn.qkv.bias"]
        with pytest.raises(ValueError, match=r"^some\.pth .*missing blocks\.1\.attn\.qkv\.bias"):
            load_timm_state(our_vit(), state, "some.pth")

    def test_missing_positions(self):
        state = timm_state()
        del state["pos_embed"]
        with pytest.raises(ValueError, match="missing pos_embed"):
            load_timm_state(our_vit(), state, "test")

    def test_an_unknown_key(self):
        state = timm_state() | {"blocks.0.ls1.gamma": torch.ones(32)}
        with pytest.raises(ValueError, match=r"unknown blocks\.0\.ls1\.gamma"):
            load_timm_state(our_vit(), state, "test")

    def test_a_misshapen_key(self):
        state = timm_state()
        state["blocks.0.mlp.fc1.weight"] = torch.zeros(64, 32)
        with pytest.raises(
            ValueError,
            match=r"blocks\.0\.mlp\.fc1\.weight has shape \(64, 32\), expected \(128, 32\)",
        ):
            load_timm_state(our_vit(), state, "test")

    def test_another_depth(self):
        with pytest.raises(ValueError, match=r"missing blocks\.2\..* more"):
            load_timm_state(our_vit(depth=3), timm_state(depth=2), "test")
        with pytest.raises(ValueError, match=r"unknown blocks\.2\..* more"):
            load_timm_state(our_vit(depth=2), timm_state(depth=3), "test")

    def test_another_width(self):
        with pytest.raises(ValueError, match=r"pos_embed has shape .*64\), expected .*32\)"):
            load_timm_state(our_vit(), timm_state(embed_dim=64), "test")

    def test_patches_of_another_size_are_resampled(self):
        state = timm_state(patch_size=8, img_size=(24, 24))
        vit = our_vit()
        load_timm_state(vit, state, "test")
        kernel = resample_patch_embed(state["patch_embed.proj.weight"], [16, 16])
        torch.testing.assert_close(vit.patch_embed.proj.weight.detach(), kernel)

    def test_a_grid_that_is_not_square(self):
        state = timm_state(grid=(6, 10))
        assert state["pos_embed"].shape[1] == 61
        with pytest.raises(ValueError, match=r"61 positions for 1 extra.*not square"):
            load_timm_state(our_vit(), state, "test")

    def test_a_failure_changes_nothing(self):
        vit = our_vit()
        before = {key: value.clone() for key, value in vit.state_dict().items()}
        with pytest.raises(ValueError, match="unknown"):
            load_timm_state(vit, timm_state(depth=3), "test")
        after = vit.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)


class TestFamilies:
    def test_what_is_left_out_is_listed_by_its_reason(self):
        model = timm_model("siglip2")
        state = model.state_dict() | {"mask_token": torch.zeros(1, 48)}
        left_out = load_timm_state(blank(model), state, "test")
        assert left_out["mask token"] == ["mask_token"]
        assert "attn_pool.latent" in left_out["attention pooling"]
        assert left_out["classifier"] == ["head.weight", "head.bias"]
        plain = load_timm_state(our_vit(), timm_state(reg_tokens=4), "test")
        assert plain["class token and registers"] == ["cls_token", "reg_token"]
        assert plain["final norm"] == ["norm.weight", "norm.bias"]

    @pytest.mark.parametrize(
        "family", ["dinov2_reg", "dinov3_plus", "eva02_base", "deit_distilled"]
    )
    def test_a_missing_key_is_named(self, family):
        model = timm_model(family)
        for key in model.state_dict():
            if key.startswith(("blocks.1.", "cls_token", "norm.weight")):
                state = {name: value for name, value in model.state_dict().items() if name != key}
                with pytest.raises(ValueError, match=r"missing|shape|unknown|register tokens"):
                    load_timm_state(blank(model), state, "test")

    def test_files_of_the_authors(self, tmp_path, monkeypatch):
        """DINOv3 as Meta publishes it: other names, and a bias of keys that is masked."""
        model = timm_model("dinov3")
        theirs = {}
        for key, value in model.state_dict().items():
            key = key.replace("reg_token", "storage_tokens").replace("gamma_1", "ls1.gamma")
            theirs[key.replace("gamma_2", "ls2.gamma")] = value
        theirs |= {"mask_token": torch.zeros(1, 48), "rope_embed.periods": torch.ones(4)}
        torch.save(theirs, tmp_path / "dinov3.pth")
        monkeypatch.setattr("stepseg.vit.weights.blank_model", lambda name: model)
        ours = blank(model)
        load_timm_checkpoint(ours, tmp_path / "dinov3.pth", "vit_small_patch16_dinov3")
        for key, value in from_timm(model).state_dict().items():
            assert torch.equal(ours.state_dict()[key], value), key


def blank(model: VisionTransformer) -> StagedViT:
    return StagedViT(read_architecture(model))


class TestFiles:
    @pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
    def test_pth(self, tmp_path, wrapper):
        state = timm_state()
        path = tmp_path / "vit.pth"
        torch.save({wrapper: state, "epoch": 3} if wrapper else state, path)
        vit = our_vit()
        load_timm_checkpoint(vit, path)
        key = "blocks.1.mlp.fc2.weight"
        assert torch.equal(vit.get_parameter(key), state[key])

    def test_safetensors(self, tmp_path):
        state = timm_state()
        save_file(state, tmp_path / "vit.safetensors")
        vit = our_vit()
        load_timm_checkpoint(vit, str(tmp_path / "vit.safetensors"))
        key = "blocks.1.mlp.fc2.weight"
        assert torch.equal(vit.get_parameter(key), state[key])

    def test_an_absent_file(self, tmp_path):
        with pytest.raises(ValueError, match=r"backbone\.checkpoint=.*gone\.pth' is not a file"):
            load_timm_checkpoint(our_vit(), tmp_path / "gone.pth")

    def test_a_file_that_holds_something_else(self, tmp_path):
        torch.save([1, 2, 3], tmp_path / "list.pth")
        with pytest.raises(ValueError, match="holds a list, not a state dict"):
            load_timm_checkpoint(our_vit(), tmp_path / "list.pth")

    def test_a_file_that_would_run_code(self, tmp_path):
        torch.save({"state_dict": timm_state, "x": socket.socket}, tmp_path / "code.pth")
        with pytest.raises(ValueError, match=r"code\.pth' cannot be read safely"):
            load_timm_checkpoint(our_vit(), tmp_path / "code.pth")

    def test_a_checkpoint_of_another_backbone_is_named(self, tmp_path):
        torch.save(timm_state(depth=3), tmp_path / "deep.pth")
        with pytest.raises(ValueError, match=r"deep\.pth is not a checkpoint of this ViT"):
            load_timm_checkpoint(our_vit(), tmp_path / "deep.pth")


class TestPretrained:
    NAME = "vit_tiny_patch16_224.augreg_in21k"

    def test_asks_timm_for_the_weights(self, monkeypatch):
        calls = []

        def create_model(name, **options):
            calls.append((name, options))
            return VisionTransformer(img_size=48, embed_dim=32, depth=2, num_heads=2, num_classes=0)

        monkeypatch.setattr(timm, "create_model", create_model)
        load_timm_pretrained(our_vit(), self.NAME)
        assert calls == [(self.NAME, {"pretrained": True, "num_classes": 0})]

    @pytest.mark.parametrize("error", [ConnectionError, OSError, RuntimeError])
    def test_without_network_the_message_says_what_to_do(self, monkeypatch, error):
        def offline(name, **options):
            raise error("cannot reach the hub")

        monkeypatch.setattr(timm, "create_model", offline)
        with pytest.raises(
            ValueError,
            match=rf"'{self.NAME}' could not be loaded \({error.__name__}: cannot reach the hub\).*"
            r"backbone\.checkpoint=<file>.*backbone\.pretrained=null",
        ):
            load_timm_pretrained(our_vit(), self.NAME)

    def test_an_unknown_model_names_others(self):
        with pytest.raises(ValueError, match=r"no model 'vit_enormous'.*vit_base_patch16"):
            load_timm_pretrained(our_vit(), "vit_enormous")
