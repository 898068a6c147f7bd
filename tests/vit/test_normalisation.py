"""Pretrained weights see images as they were trained on, whatever family they are of."""

import json
from typing import Any

import pytest
import timm
import torch

from stepseg.build import ModelConfig, build_segmenter, resolved
from stepseg.vit.normalisation import Normalisation, of_file, of_pretrained
from toys import toy_images

HALVES = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

FAMILIES = {
    "vit_tiny_patch16_224.augreg_in21k": HALVES,
    "vit_small_patch16_384.augreg_in1k": HALVES,
    "vit_base_patch16_384.augreg_in21k_ft_in1k": HALVES,
    "vit_base_patch16_224.orig_in21k": HALVES,
    "vit_base_patch16_224.sam_in1k": HALVES,
    "vit_base_patch16_224": HALVES,  # a name without tag means its first weights
    "deit_tiny_patch16_224.fb_in1k": IMAGENET,
    "deit_tiny_distilled_patch16_224.fb_in1k": IMAGENET,
    "deit_base_patch16_384.fb_in1k": IMAGENET,
    "vit_small_patch16_224.dino": IMAGENET,
    "vit_base_patch16_224.mae": IMAGENET,
    "vit_large_patch16_224.mae": IMAGENET,
}
"""Every family of timm's weights that fits the plain ViT."""

SIZES = ("tiny", "small", "base", "large")


def config(name: str, **backbone: Any) -> ModelConfig:
    size = next(size for size in SIZES if f"_{size}_" in name)
    return ModelConfig.from_dict(
        {"num_classes": 2, "policy": None, "backbone": {"name": f"vit_{size}", **backbone}}
    )


@pytest.mark.parametrize(("name", "expected"), FAMILIES.items(), ids=FAMILIES)
def test_the_network_normalises_as_its_weights_were_trained(monkeypatch, name, expected):
    monkeypatch.setattr("stepseg.build.load_timm_pretrained", lambda vit, name: None)
    model = build_segmenter(config(name, pretrained=name, depth=1))
    for own, value in zip((model.backbone.mean, model.backbone.std), expected, strict=True):
        torch.testing.assert_close(own.flatten(), torch.tensor(value))


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224.augreg_in21k", "deit_tiny_patch16_224.fb_in1k"]
)
def test_values_equal_those_of_timm_from_the_pixels_on(monkeypatch, name):
    theirs = timm.create_model(name, pretrained=False, num_classes=0).eval()
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: theirs)
    model = build_segmenter(config(name, pretrained=name)).eval()
    images = toy_images(1, 224, 224)
    data = timm.data.resolve_data_config(model=theirs)
    mean, std = (torch.tensor(data[key]).view(3, 1, 1) for key in ("mean", "std"))
    expected = theirs.get_submodule("patch_embed")((images - mean) / std)
    backbone = model.backbone
    with torch.no_grad():
        backbone.pos_embed.zero_()
        tokens = model.embed(images, model.merge(images, {}, None), None)
    torch.testing.assert_close(tokens.values_TD, expected.flatten(0, 1), rtol=1e-4, atol=1e-4)


def test_what_is_told_counts():
    name = "deit_tiny_patch16_224.fb_in1k"
    backbone = resolved(config(name, pretrained=name, mean=[0.5, 0.25, 0.5])).backbone
    assert (backbone.mean, backbone.std) == ((0.5, 0.25, 0.5), IMAGENET.std)


def test_random_weights_take_halves():
    backbone = resolved(config("vit_tiny_")).backbone
    assert (backbone.mean, backbone.std) == HALVES


def test_unknown_weights_of_a_known_model():
    with pytest.raises(ValueError, match=r"no weights 'deit_tiny_patch16_224\.best'.*fb_in1k"):
        of_pretrained("deit_tiny_patch16_224.best")


class TestFiles:
    def test_timm_s_configuration_beside_the_weights(self, tmp_path):
        pretrained_cfg = {"mean": IMAGENET.mean, "std": IMAGENET.std, "tag": "mae"}
        (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": pretrained_cfg}))
        assert of_file(tmp_path / "model.safetensors") == IMAGENET

    def test_a_file_alone_has_to_be_told(self, tmp_path):
        path = tmp_path / "vit.pth"
        path.touch()
        assert of_file(path) is None
        with pytest.raises(ValueError, match=r"vit\.pth' does not say .*: set backbone\.mean and"):
            resolved(config("vit_tiny_", checkpoint=str(path)))
        told = resolved(config("vit_tiny_", checkpoint=str(path), mean=[0, 0, 0], std=[1, 1, 1]))
        assert (told.backbone.mean, told.backbone.std) == ((0, 0, 0), (1, 1, 1))

    @pytest.mark.parametrize(
        "content", ["no json", "{}", '{"pretrained_cfg": {"mean": [0.5], "std": [0.5]}}']
    )
    def test_another_configuration_beside_the_weights(self, tmp_path, content):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ValueError, match=r"config\.json' beside .* set backbone\.mean"):
            of_file(tmp_path / "vit.pth")
