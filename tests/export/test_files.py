"""Exported files say what the model says, in runtimes that know nothing of stepseg."""

import json
import logging

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from stepseg.export import agreement, onnx_file
from stepseg.export.agreement import Agreement, compare, onnx_runner, program_runner
from stepseg.export.onnx_file import require, write_onnx
from stepseg.export.program import EXTRA_FILE, export_program, write_program
from stepseg.export.static import StaticSegmenter
from stepseg.heads.exit import BudgetExit
from stepseg.model import Reduction
from toys import FOUNDATION, SYSTEMS, toy_head, toy_images, toy_segmenter, toy_vit

SIZE = (77, 110)
METADATA = {"classes": ["a", "b"], "producer": "stepseg", "image_size": [77, 110]}
STEP = Reduction(merge=SYSTEMS["cts_sizes"].merge, exit=BudgetExit((9,)), exit_blocks=(1,))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    parts = {"backbone": toy_vit(depth=2, **FOUNDATION), "exit_heads": {1: toy_head(num_layers=1)}}
    return toy_segmenter(decoder=toy_head(num_layers=1), **parts).prepare_for_inference()


@pytest.fixture(scope="module")
def step(model):
    """A program of STEP for any number of images, with scores."""
    return export_program(StaticSegmenter(model, STEP, SIZE, scores=True), batch_size=None)


@pytest.fixture(scope="module")
def step_onnx(step, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    write_onnx(path, step, METADATA)
    return path


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_onnx_runtime_says_the_same(batch, model, step_onnx):
    images = toy_images(batch, *SIZE)
    with torch.no_grad():
        expected = model(images, reduction=STEP)
    labels, scores = onnx_runner(step_onnx)(images)
    assert labels.dtype == np.int64
    np.testing.assert_allclose(scores, expected.scores().numpy(), atol=1e-5)
    assert (labels == expected.prediction().numpy()).mean() > 0.999
    assert len(np.unique(labels)) > 1


def test_onnx_file_is_valid_and_tells_its_story(step_onnx):
    file = onnx.load(step_onnx)
    onnx.checker.check_model(file, full_check=True)
    assert {opset.domain: opset.version for opset in file.opset_import}[""] == 18
    assert not any(initializer.external_data for initializer in file.graph.initializer)
    metadata = {entry.key: entry.value for entry in file.metadata_props}
    assert json.loads(metadata["classes"]) == ["a", "b"]
    assert metadata["producer"] == "stepseg"  # a word stays a word
    (image,) = file.graph.input
    assert image.name == "images"
    assert [output.name for output in file.graph.output] == ["labels", "scores"]
    assert [d.dim_value for d in image.type.tensor_type.shape.dim][1:] == [3, *SIZE]
    operators = {node.op_type for node in file.graph.node}
    assert not operators & {"NonZero", "If", "Loop"}  # nothing whose shape depends on data


def test_dense_model_of_one_image(model, tmp_path):
    program = export_program(StaticSegmenter(model, Reduction(), SIZE))
    level = logging.getLogger("onnx_ir").level
    write_onnx(tmp_path / "dense.onnx", program, {})
    assert logging.getLogger("onnx_ir").level == level
    session = onnxruntime.InferenceSession(tmp_path / "dense.onnx")
    assert [output.shape for output in session.get_outputs()] == [[1, *SIZE]]
    found = compare(model, Reduction(), onnx_runner(tmp_path / "dense.onnx"), toy_images(2, *SIZE))
    assert found.is_close
    assert found.largest_score_difference is None  # it returns no scores


@pytest.mark.parametrize("ties", [[3.0, 1.0, 3.0, 2.0, 1.0, 3.0], [1.0] * 40])
@pytest.mark.parametrize("descending", [True, False])
def test_stable_sort_in_onnx_runtime(ties, descending, tmp_path):
    class Sort(torch.nn.Module):
        def forward(self, images):
            return images.sort(dim=1, descending=descending, stable=True).indices

    values = torch.tensor([ties, ties[::-1]])
    write_onnx(tmp_path / "sort.onnx", torch.export.export(Sort(), (values,)), {})
    (order,) = onnx_runner(tmp_path / "sort.onnx")(values)
    assert order.tolist() == Sort()(values).tolist()


def test_program_in_a_file(model, step, tmp_path):
    path = tmp_path / "model.pt2"
    write_program(path, step, METADATA)
    images, extra = toy_images(3, *SIZE), {EXTRA_FILE: ""}
    with torch.no_grad():
        expected = model(images, reduction=STEP)
        labels, scores = torch.export.load(path, extra_files=extra).module()(images)
    assert json.loads(extra[EXTRA_FILE]) == METADATA
    torch.testing.assert_close(scores, expected.scores(), rtol=0, atol=2e-6)
    best, second = expected.scores().topk(2, dim=1).values.unbind(1)
    clear = best - second > 4e-6  # a tie falls as the processor rounds
    assert clear.float().mean() > 0.999
    assert torch.equal(labels[clear], expected.prediction()[clear])
    found = compare(model, STEP, program_runner(path), images, batch_size=2)
    assert found.is_close
    assert found.pixels == 3 * SIZE[0] * SIZE[1]
    assert found.largest_score_difference < 1e-5


def test_disagreement_is_measured(model):
    images = toy_images(1, *SIZE)
    with torch.no_grad():
        output = model(images, reduction=Reduction())
    labels, scores = output.prediction().numpy(), output.scores().numpy()
    wrong = labels.copy()
    wrong[0, :7] = (wrong[0, :7] + 1) % 5
    found = compare(model, Reduction(), lambda x: [wrong, scores + 0.25], images)
    assert found.equal == pytest.approx(1 - 7 / 77)
    assert found.largest_margin > 0.01
    assert found.largest_score_difference == pytest.approx(0.25, abs=1e-6)
    assert not found.is_close
    assert Agreement(1000, 0.9995, 5e-4, None).is_close  # close calls only
    assert not Agreement(1000, 0.9995, 5e-2, None).is_close
    assert not Agreement(1000, 0.99, 5e-4, None).is_close


def test_missing_packages_are_named():
    with pytest.raises(ValueError, match=r"needs onnx_nowhere: pip install 'stepseg\[export\]'"):
        require("onnx", "onnx_nowhere")


def test_weights_beyond_the_format_are_refused(step, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "LIMIT", 1000)
    with pytest.raises(ValueError, match=r"do not fit into one ONNX file.*format=torch"):
        write_onnx(tmp_path / "model.onnx", step, {})
    assert agreement.LEAST_AGREEMENT == 0.999  # what the documentation promises
