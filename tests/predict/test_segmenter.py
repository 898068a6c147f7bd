"""The Python interface, on a toy model."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import stepseg
from stepseg.evaluation import Evaluator
from stepseg.macs import count_macs, total_macs
from stepseg.model import Reduction
from stepseg.predict.notes import views_of_size
from stepseg.predict.prediction import KINDS
from stepseg.predict.segmenter import Segmenter
from stepseg.protocol import Protocol, forward_sizes
from toys import CLASSES, SYSTEMS, toy_images, toy_oracle, toy_segmenter

NAMES = [f"class {index}" for index in range(CLASSES)]
PALETTE = [(40 * c, 0, 255 - 40 * c) for c in range(CLASSES)]
SLIDE = Protocol(mode="slide", crop=(48, 64), stride=(32, 40), window_batch=3)


def segmenter(protocol=None, system="step", **options):
    model = toy_segmenter(reduction=SYSTEMS[system])
    options = {"classes": NAMES, "palette": PALETTE, "device": "cpu"} | options
    return Segmenter(model, protocol=protocol, **options)


def pixels(count=1, height=75, width=101):
    images = (toy_images(count, height, width) * 255).to(torch.uint8)
    return [image.permute(1, 2, 0).numpy() for image in images]


def test_one_image_and_what_is_said_about_it():
    ours = segmenter()
    image = pixels()[0]
    result = ours.predict(image)
    with torch.no_grad():
        batch = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        output = ours.model(batch)
    assert (result.labels == output.prediction()[0].numpy()).all()
    assert result.labels.dtype == np.uint8
    assert (result.image == image).all()
    assert result.tokens == tuple(lengths[0] for lengths in output.tokens_per_stage)
    assert result.gmacs == total_macs(count_macs(ours.model, output))[0] / 1e9
    assert result.exits == {1: result.tokens[0] - result.tokens[1],
                            3: result.tokens[1] - result.tokens[2]}  # fmt: skip
    assert sum(result.superpatches.values()) == result.tokens[0]
    assert sum(side**2 * n for side, n in result.superpatches.items()) == 5 * 7
    assert result.threshold == 0.87
    assert result.maps.token_HW.shape == (75, 101)
    assert repr(result).startswith("Prediction(101 x 75 px, ")
    assert "\n" not in repr(result)
    assert len(repr(result)) < 120


@pytest.mark.parametrize(
    "protocol",
    [None, SLIDE, Protocol(resize_short=60), Protocol(scales=(1.0, 0.5), flip=True),
     Protocol(mode="slide", crop=(48, 48), resize_short=64)],
)  # fmt: skip
def test_labels_are_those_of_the_evaluation(protocol):
    ours = segmenter(protocol)
    images = pixels(3)
    spec = SimpleNamespace(num_classes=CLASSES, ignore_index=255)
    evaluator = Evaluator(ours.model, [SYSTEMS["step"]], spec, protocol or Protocol())
    maps: list[torch.Tensor] = []
    for image, result in zip(images, ours.predict(images, batch_size=2), strict=True):
        batch = torch.from_numpy(image).permute(2, 0, 1)[None]
        label = torch.zeros(1, 75, 101, dtype=torch.int64)
        [outputs] = evaluator.update(batch, label, lambda _, labels: maps.append(labels[0]))
        assert (result.labels == maps[-1].numpy()).all()
        tokens = [sum(sum(o.tokens_per_stage[stage]) for o in outputs) for stage in range(3)]
        assert list(result.tokens) == tokens
        assert result.maps.token_HW.shape == result.seen_size
    [figures] = evaluator.compute()
    results = list(ours.predict(images))
    assert np.mean([r.gmacs for r in results]) == pytest.approx(figures["gmacs_mean"])
    for side, mean in figures["superpatches"].items():
        assert np.mean([r.superpatches[int(side)] for r in results]) == pytest.approx(mean)


@pytest.mark.parametrize("protocol", [None, SLIDE])
def test_batches_of_mixed_sizes_give_what_single_images_give(protocol):
    ours = segmenter(protocol)
    images = [*pixels(2), *pixels(1, 33, 47), *pixels(2), *pixels(1, 5, 3)]
    batched = list(ours.predict(iter(images), batch_size=3))
    for image, result in zip(images, batched, strict=True):
        alone = ours.predict(image)
        assert (result.image == image).all()
        assert (result.labels == alone.labels).all()
        assert result.tokens == alone.tokens
        assert result.gmacs == alone.gmacs
        assert (result.maps.exit_HW == alone.maps.exit_HW).all()


def test_a_stream_is_read_as_it_is_used():
    taken = []

    def source():
        for image in pixels(3, 32, 32):
            taken.append(1)
            yield image

    stream = segmenter().predict(source())
    assert not taken
    next(stream)
    assert len(taken) == 1


def test_other_reductions_share_the_weights():
    ours = segmenter()
    dense = ours.with_reduction(Reduction())
    assert dense.model is ours.model
    assert dense.predict(pixels()[0]).tokens == (35,)
    assert len(ours.predict(pixels()[0]).tokens) == 3


def test_pictures_and_files(tmp_path):
    for protocol in (None, SLIDE, Protocol(resize_short=60)):
        result = segmenter(protocol).predict(pixels()[0])
        for kind in KINDS:
            assert result.picture(kind, result.labels, result.labels).width >= 101
    assert (np.asarray(Image.open(result.save(tmp_path / "l.png"))) == result.labels).all()
    assert Image.open(result.save(tmp_path / "o.jpg", "overlay")).size == (101, 75)
    with pytest.raises(ValueError, match="class ids survive"):
        result.save(tmp_path / "l.jpg")
    with pytest.raises(ValueError, match="no picture format"):
        result.save(tmp_path / "o.doc", "overlay")
    with pytest.raises(ValueError, match="choose from colours"):
        result.picture("token")
    with pytest.raises(ValueError, match="needs the ground truth"):
        result.picture("difference")
    with pytest.raises(ValueError, match="needs the labels of the dense"):
        result.picture("dense")


def test_views_are_counted_as_they_are_shown():
    protocol = Protocol(mode="slide", crop=(16, 16), scales=(0.5, 1.0), flip=True)
    windows = views_of_size((64, 32), protocol)
    assert len(windows) == len(forward_sizes(64, 32, protocol))
    shown = [w for w in windows if w is not None]
    assert {w.size for w in shown} == {(16, 16)}
    assert max(w.bottom for w in shown) == 32  # of the first scale, not mirrored


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "choose auto, cpu"),
        ({"dtype": "fp16"}, "choose from fp32, bf16"),
        ({"classes": NAMES[1:]}, "5 classes.* 4 names"),
    ],
)
def test_impossible_requests(options, message):
    with pytest.raises(ValueError, match=message):
        segmenter(**options)


def test_options_are_checked_before_weights_are_read(tmp_path):
    absent = tmp_path / "no.ckpt"
    with pytest.raises(TypeError, match="no option 'devise'; did you mean 'device'"):
        Segmenter.from_checkpoint(absent, devise="cpu")
    with pytest.raises(ValueError, match="choose from fp32, bf16"):
        Segmenter.from_checkpoint(absent, dtype="fp16")
    with pytest.raises(TypeError, match="no option 'devise'"):
        stepseg.from_eomt(None, devise="cpu")


def test_the_oracle_cannot_predict():
    model = toy_segmenter(policy=toy_oracle(), reduction=SYSTEMS["step"])
    with pytest.raises(ValueError, match="merges by ground truth"):
        Segmenter(model, classes=NAMES, palette=PALETTE)
    assert Segmenter(model, classes=NAMES, palette=PALETTE, reduction=SYSTEMS["dtop"])


def test_the_package_offers_it():
    assert stepseg.Segmenter is Segmenter
    with pytest.raises(AttributeError, match="segmenter"):
        _ = stepseg.segmenter
