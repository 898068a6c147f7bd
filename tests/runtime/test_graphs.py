"""CUDA graphs, rehearsed on a CPU against a stand-in (`fake_cuda`): what eager says, number by
number, whatever the images and whatever lay in the tensors before."""

import copy
import gc
import math
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest
import torch

import fake_cuda
from fake_cuda import Graph, Stream
from stepseg.budget import budget_range
from stepseg.heads.exit import ConfidenceExit, UniformExit
from stepseg.model import Reduction
from stepseg.profile.spread import SpreadExit, SpreadMerge
from stepseg.runtime import graphs as module
from stepseg.runtime.apply import stand_in
from stepseg.runtime.captured import Captured
from stepseg.runtime.graphs import Graphs
from stepseg.runtime.lane import Lane
from toys import (
    CONFIDENCE,
    DCTS,
    EXIT_BLOCKS,
    FOUNDATION,
    OTHERS,
    SYSTEMS,
    light_heads,
    segmenter_of,
    toy_cascaded_segmenter,
    toy_eomt_segmenter,
    toy_images,
    toy_labels,
    toy_oracle,
    toy_segmenter,
    toy_vit,
)

CAPTURED = SYSTEMS | {name: system for name, system in OTHERS.items() if system.inside is None}
PRESCRIBED = ("dense", "cts", "cts_sizes", "uniform", "random_top_k", "smaller")
SLOW = pytest.mark.slow  # second cases
SIZES = [(1, 64, 96), (3, 64, 80), (2, 16, 16)]


@pytest.fixture(autouse=True)
def _cuda(monkeypatch):
    fake_cuda.install(monkeypatch)
    with torch.no_grad():
        yield


def with_graphs(model):
    """The graphs that stand in for this model's forward pass, on its own modules."""
    graphs = Graphs(model, lambda model: model)
    stand_in(model, "forward", graphs)
    return graphs


def check(found, expected):
    assert found.tokens_per_stage == expected.tokens_per_stage
    assert torch.equal(found.exit_T0, expected.exit_T0)
    assert torch.equal(found.layout.anchor_T0, expected.layout.anchor_T0)
    assert torch.equal(found.prediction(), expected.prediction())
    assert found.policy_logits.keys() == expected.policy_logits.keys()
    torch.testing.assert_close(found.scores(), expected.scores())
    for ours, theirs in zip(found.heads, expected.heads, strict=True):
        assert (ours.exits, ours.temperature) == (theirs.exits, theirs.temperature)
        for one, other in zip(found.answers(ours)[0], expected.answers(theirs)[0], strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def spoil(graphs):
    """What may lie in tensors before a run: anything, but for the numbers of the last row."""
    for captured in graphs._captured.values():
        for name, tensor in captured.held.items():
            if tensor.is_floating_point():
                tensor.fill_(math.nan)
            elif tensor.dtype != torch.bool:
                (tensor[:-1] if name.startswith(("ids", "images")) else tensor).fill_(2**30)
        for counts in captured.counts:
            counts.fill_(-(2**30))


SECOND = {"cts", "dcts_edges", "dcts_area", "step_uniform", "step_random", "random_top_k", "random"}


@pytest.mark.parametrize(
    "system", [pytest.param(s, marks=[SLOW] if s in SECOND else []) for s in CAPTURED]
)
def test_equals_eager(system):
    reduction = CAPTURED[system]
    own = "own" if system in ("step", "dtop") else "final"
    model = toy_segmenter(class_source=own).prepare_for_inference()
    batches = [toy_images(*size) for size in SIZES]
    expected = [model(images, reduction=reduction) for images in batches]
    graphs = with_graphs(model)
    for _ in range(2):  # compared, and replayed over what must not matter
        for images, eager in zip(batches, expected, strict=True):
            with torch.inference_mode() if own == "own" else torch.no_grad():
                check(model(images, reduction=reduction), eager)
        spoil(graphs)
    assert not graphs._given_up
    assert len(graphs._rounding) == len(SIZES)
    exits = len(reduction.exit_blocks)
    stages = 1 if system in PRESCRIBED else exits + 1 + (reduction.merge is not None)
    assert Graph.made == len(SIZES) * stages


def test_class_tokens_registers_and_rotary_positions():
    model = toy_segmenter(backbone=toy_vit(**FOUNDATION)).prepare_for_inference()
    graphs = with_graphs(model)
    cases = (("dense", SIZES[1]), ("step", SIZES[1]), ("step_all_leave", SIZES[2]))
    for system, size in cases:
        images, reduction = toy_images(*size), SYSTEMS[system]
        expected = graphs._plain(images, reduction)
        for _ in range(2):
            check(model(images, reduction=reduction), expected)
            spoil(graphs)


def test_numbers_that_differ_from_image_to_image_although_prescribed():
    merge = SpreadMerge(windows=(2,), thresholds=None, top_k=3, by_image=((3,), (1,), (2,)))
    budget = SpreadExit((9, 4), by_image=((9, 4), (7, 7), (12, 1)))
    model, images = toy_segmenter().prepare_for_inference(), toy_images(3)
    graphs, reduction = with_graphs(model), Reduction(merge, budget, EXIT_BLOCKS)
    for _ in range(2):
        check(model(images, reduction=reduction), graphs._plain(images, reduction))
    assert Graph.made == 4


def test_light_heads_and_a_budget_of_operations():
    model, images = toy_segmenter(exit_heads=light_heads()).prepare_for_inference(), toy_images(2)
    graphs, mean = with_graphs(model), sum(budget_range(model, SYSTEMS["step"], (80, 112))) / 2
    reduction = replace(SYSTEMS["step"], gmacs_per_image=mean, exit_blocks=(1, 2, 3))
    for _ in range(2):
        check(model(images, reduction=reduction), graphs._plain(images, reduction))
    assert Graph.made == 5


@dataclass(frozen=True)
class FirstLeaves(ConfidenceExit):
    """The first image is left without a token."""

    def keep(self, probabilities_TC, tokens, exit_index):
        return tokens.image_ids_T != 0


def test_an_image_without_tokens_and_others_with():
    model = toy_segmenter().prepare_for_inference()
    reduction = Reduction(merge=DCTS, exit=FirstLeaves(), exit_blocks=(2, 3))
    graphs, images = with_graphs(model), toy_images(3)
    for _ in range(2):
        check(model(images, reduction=reduction), graphs._plain(images, reduction))
    assert [stage[0] for stage in graphs._plain(images, reduction).tokens_per_stage][1:] == [0, 0]


def test_one_set_of_graphs_serves_images_that_differ():
    """A batch is what its images are alone, and nothing is recorded twice for a bucket."""
    model, reduction = toy_segmenter().prepare_for_inference(), SYSTEMS["step"]
    graphs = with_graphs(model)
    batches = [toy_images(3) for _ in range(3)] + [torch.zeros(3, 3, 80, 112)]
    counts = []
    for images in batches:
        together = model(images, reduction=reduction)
        counts.append(together.tokens_per_stage)
        for index, image in enumerate(images):
            alone = model(image[None], reduction=reduction)
            torch.testing.assert_close(together.scores()[index], alone.scores()[0])
            assert alone.tokens_per_stage == [(stage[index],) for stage in counts[-1]]
    assert len({str(numbers) for numbers in counts}) == len(batches)
    assert len(graphs._captured) == 2
    buckets = {
        (captured, part, captured._bucket(numbers[part - 1]))
        for captured, all_ in zip(graphs._captured.values(), (counts, ()), strict=True)
        for numbers in all_
        for part in (1, 2, 3)
    }
    assert len([key for key in graphs._lanes[0]._graphs if key[0].batch == 3]) <= len(buckets) + 1


def test_results_stay_what_they_are():
    model, reduction = toy_segmenter().prepare_for_inference(), SYSTEMS["step"]
    with_graphs(model)
    first = [model(toy_images(2), reduction=reduction) for _ in range(2)][1]
    kept = copy.deepcopy(first)
    model(toy_images(2), reduction=reduction)
    check(first, kept)


@pytest.mark.parametrize("lanes", [2, pytest.param(1, marks=SLOW), pytest.param(3, marks=SLOW)])
def test_several_batches_on_their_way(lanes):
    model, reduction = toy_segmenter().prepare_for_inference(), SYSTEMS["step"]
    graphs = with_graphs(model)
    sizes = [SIZES[0]] * 3 + [SIZES[2], SIZES[0]]
    batches = [toy_images(*size) for size in sizes]
    expected = [graphs._plain(images, reduction) for images in batches]
    for _ in range(2):
        found = graphs.in_flight(batches, reduction, lanes=lanes)
        for result, eager in zip(found, expected, strict=True):
            check(result, eager)
    assert len(graphs._lanes) == lanes


def test_another_lane_works_while_one_is_waited_for(monkeypatch):
    model, reduction = toy_segmenter().prepare_for_inference(), SYSTEMS["step"]
    graphs, queued = with_graphs(model), []
    wait = Stream.synchronize

    def see(stream):
        queued.append(sum(bool(lane.stream.queue) for lane in graphs._lanes))
        wait(stream)

    batches = [toy_images(1, 64, 64) for _ in range(5)]
    list(graphs.in_flight(batches, reduction))
    monkeypatch.setattr(Stream, "synchronize", see)
    list(graphs.in_flight(batches, reduction))
    assert queued.count(2) > len(batches)


def test_weights_that_change_are_recorded_again():
    model, images = toy_segmenter().prepare_for_inference(), toy_images(2)
    graphs, other = with_graphs(model), toy_segmenter().prepare_for_inference()
    model(images, reduction=SYSTEMS["step"])
    before = Graph.made
    model.load_state_dict(other.state_dict())
    for part in ("decoder", *(f"exit_heads.{block}" for block in model.exit_head_blocks)):
        model.get_submodule(part).cache_first_query()
    for _ in range(2):
        found = model(images, reduction=SYSTEMS["step"])
        check(found, other(images, reduction=SYSTEMS["step"]))
    assert Graph.made == 2 * before
    model.double()
    found = [model(images.double(), reduction=SYSTEMS["dense"]) for _ in range(2)][1]
    assert (
        found.cell_scores().dtype == graphs._plain(images.double(), Reduction()).cell_scores().dtype
    )
    assert Graph.made == 2 * before + 1


def test_every_new_bucket_is_compared(monkeypatch):
    """What the first images did not need may be wrong as well."""
    model, reduction = toy_segmenter().prepare_for_inference(), SYSTEMS["step"]
    graphs, compared = with_graphs(model), []
    plain = graphs._plain
    monkeypatch.setattr(graphs, "_plain", lambda *given: compared.append(1) or plain(*given))
    few, many = torch.zeros(3, 3, 160, 160), toy_images(3, 160, 160)
    for images in (few, few, many, many, few):
        check(model(images, reduction=reduction), plain(images, reduction))
    captured = graphs._captured[(0, many.shape, many.dtype, reduction)]
    counts = [plain(images, reduction).tokens_per_stage[0] for images in (few, many)]
    assert captured._bucket(counts[0]) != captured._bucket(counts[1]), "the test needs two buckets"
    assert len(compared) == 2
    graphs._lanes[0]._graphs.clear()  # recorded again, and spoiled
    monkeypatch.setattr(Graph, "broken", staticmethod(forget_a_result))
    with pytest.warns(UserWarning, match="runtime=graphs is not used for 3 x 160 x 160 px"):
        check(model(many, reduction=reduction), plain(many, reduction))
    assert len(list(graphs.in_flight([few, many], reduction))) == 2
    assert graphs._given_up


def test_rounding_of_half_precision_is_measured_once_for_a_kind(monkeypatch):
    model, reduction = toy_segmenter().prepare_for_inference().bfloat16(), SYSTEMS["dcts"]
    graphs, measured = with_graphs(model), []
    measure = graphs._measure
    monkeypatch.setattr(graphs, "_measure", lambda *given: measured.append(1) or measure(*given))
    for images in (torch.zeros(2, 3, 160, 160), toy_images(2, 160, 160)):
        model(images.bfloat16(), reduction=reduction)
    assert len(measured) == 1
    (rounding,) = graphs._rounding.values()
    assert rounding.scores > 0
    assert not graphs._given_up


def test_an_error_of_one_batch_on_its_way_leaves_the_others(monkeypatch):
    model, reduction = toy_segmenter().prepare_for_inference(), SYSTEMS["step"]
    graphs, batches = with_graphs(model), [toy_images(2), toy_images(1, 64, 64), toy_images(2)]
    expected = [graphs._plain(images, reduction) for images in batches]
    model(batches[0], reduction=reduction)
    monkeypatch.setattr(Graph, "broken", staticmethod(fail))
    with pytest.warns(UserWarning, match="1 x 64 x 64 px, .*: RuntimeError"):
        found = list(graphs.in_flight(batches, reduction))
    for result, eager in zip(found, expected, strict=True):
        check(result, eager)


def test_callers_from_several_threads_take_turns():
    model, reduction = toy_segmenter().prepare_for_inference(), SYSTEMS["step"]
    graphs, batches = with_graphs(model), [toy_images(2) for _ in range(6)]
    expected = [graphs._plain(images, reduction) for images in batches]

    @torch.no_grad()
    def call(images):
        return model(images, reduction=reduction)

    with ThreadPoolExecutor(3) as pool:
        for result, eager in zip(pool.map(call, batches), expected, strict=True):
            check(result, eager)
    assert not graphs._given_up


def forget_a_result(tape):
    """One operation is left out of what is repeated."""
    for index in [i for i, (op, *_) in enumerate(tape) if "addmm" in str(op)][:1]:
        del tape[index]


def fail(tape):
    raise RuntimeError("operation not permitted when stream is capturing")


def fill_up(tape):
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    ("sabotage", "said"),
    [
        (forget_a_result, "of an image's cells"),
        (fail, "RuntimeError: operation not permitted"),
        (fill_up, "graphs of these batches do not fit into the memory"),
    ],
)
def test_a_device_on_which_graphs_go_wrong(sabotage, said, monkeypatch):
    """The first result is compared, and none that is wrong is ever returned."""
    model = toy_segmenter().prepare_for_inference()
    with_graphs(model)
    monkeypatch.setattr(Graph, "broken", staticmethod(sabotage))
    batches = [toy_images(2), toy_images(2), toy_images(1, 64, 64)]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for images in batches:
            found = model(images, reduction=SYSTEMS["step"])
            check(found, type(model).forward(model, images, reduction=SYSTEMS["step"]))
    (warning,) = told
    assert str(warning.message).startswith(
        "runtime=graphs is not used for 2 x 80 x 112 px, STEP@[1,3], float32 on cpu: "
    )
    assert said in str(warning.message)


@pytest.mark.parametrize("flying", [False, True])
def test_what_fails_before_anything_runs_ends_nothing_and_says_what_it_was(flying, monkeypatch):
    """A recording that fails says so once more when it ends, of which nobody learns anything."""

    def refuses(*_):
        try:
            raise RuntimeError("no kernel for this")
        finally:
            raise RuntimeError("an error during capture")

    model, images = toy_segmenter().prepare_for_inference(), toy_images(2)
    graphs = with_graphs(model)
    monkeypatch.setattr("stepseg.runtime.graphs.Captured", refuses)
    told = "an error during capture; after RuntimeError: no kernel for this"
    with pytest.warns(UserWarning, match=told):
        found = (
            next(graphs.in_flight([images], SYSTEMS["step"]))
            if flying
            else model(images, reduction=SYSTEMS["step"])
        )
    check(found, type(model).forward(model, images, reduction=SYSTEMS["step"]))


@pytest.mark.parametrize("cause", ["memory", "weights"])
def test_what_is_not_used_any_more_is_freed_at_once(cause, monkeypatch):
    """Not when the garbage collector comes: what runs instead needs the memory."""
    model, images = toy_segmenter().prepare_for_inference(), toy_images(2)
    graphs = with_graphs(model)
    model(images, reduction=SYSTEMS["step"])
    held = [weakref.ref(thing) for thing in (graphs._lanes[0], *graphs._captured.values())]
    gc.disable()
    try:
        if cause == "weights":
            model.load_state_dict(model.state_dict())
            model(images, reduction=SYSTEMS["dense"])
        else:
            monkeypatch.setattr(Graph, "broken", staticmethod(fill_up))
            with pytest.warns(UserWarning, match="do not fit into the memory"):
                model(toy_images(1), reduction=SYSTEMS["step"])
        assert all(thing() is None for thing in held)
    finally:
        gc.enable()


def test_systems_in_turns_are_recorded_once():
    """As a benchmark calls them."""
    model, images = toy_segmenter().prepare_for_inference(), toy_images(1, 16, 32)
    with_graphs(model)
    systems = [name for name, system in SYSTEMS.items() if system.inside is None][:8]
    assert len(systems) >= 7
    for _ in range(2):
        made = Graph.made
        for name in systems:
            model(images, reduction=SYSTEMS[name])
    assert Graph.made == made > 0


def test_few_graphs_and_few_kinds(monkeypatch):
    monkeypatch.setattr("stepseg.runtime.lane.MOST_GRAPHS", 2)
    monkeypatch.setattr(module, "MOST_KINDS", 1)
    model, reduction = toy_segmenter().prepare_for_inference(), SYSTEMS["step"]
    graphs, batches = with_graphs(model), [toy_images(*size) for size in SIZES[1:]]
    for _ in range(2):
        for images in batches:
            check(model(images, reduction=reduction), graphs._plain(images, reduction))
    assert len(graphs._captured) == 1
    assert len(graphs._lanes[0]._graphs) == 2


def control():
    rule = UniformExit(CONFIDENCE, leaving=((1, 1), (1, 1)))
    return Reduction(exit=rule, exit_blocks=EXIT_BLOCKS)


class Unknown:
    keep = CONFIDENCE.keep


UNSUPPORTED = {
    "ToMe acts inside the blocks": (lambda: segmenter_of("tome"), OTHERS["tome"]),
    "its decoder reads several depths": (toy_cascaded_segmenter, SYSTEMS["dcts"]),
    "its decoder answers for all tokens at once": (toy_eomt_segmenter, SYSTEMS["dcts"]),
    "the oracle policy merges by labels": (
        lambda: toy_segmenter(policy=toy_oracle()),
        SYSTEMS["dcts"],
    ),
    "its counts are those of another run": (toy_segmenter, control()),
    "nothing is known of the exit rule Unknown": (
        toy_segmenter,
        Reduction(exit=Unknown(), exit_blocks=(1,)),
    ),
}


@pytest.mark.parametrize("reason", UNSUPPORTED)
def test_what_is_not_captured_runs_as_it_is_and_says_why(reason, capsys):
    make, reduction = UNSUPPORTED[reason]
    model, images, labels = make().prepare_for_inference(), toy_images(2), toy_labels(2)
    expected = model(images, labels, reduction)
    with_graphs(model)
    for _ in range(2):
        found = model(images, labels, reduction)
        assert torch.equal(found.cell_scores(), expected.cell_scores())
    assert Graph.made == 0
    said = capsys.readouterr().err
    assert said.count("runtime=graphs") == said.count(f"without graphs: {reason}") == 1


def test_gradients_and_training_take_the_eager_way():
    with torch.enable_grad():
        model = toy_segmenter()
        with_graphs(model)
        model(toy_images(1)).cell_scores().sum().backward()
        assert model.backbone.blocks[0].attn.qkv.weight.grad is not None
        model.train()(toy_images(2))
    assert Graph.made == 0


def test_a_copy_has_its_own_graphs():
    model, images = toy_segmenter().prepare_for_inference(), toy_images(1)
    with_graphs(model)
    model(images)
    other = copy.deepcopy(model)
    assert other.forward.model is other
    other.decoder.presence.bias.copy_(torch.tensor([-1.0, 1.0]))
    found = [other(images) for _ in range(2)][1]
    check(found, type(other).forward(other, images))


class TestStandIn:
    """What a graph cannot do is seen."""

    def test_numbers_of_the_host_are_those_of_the_recording(self):
        number, out = [1], torch.zeros(1)
        lane = Lane(torch.device("cpu"))
        for value in (1, 5):
            number[0] = value
            lane.run("work", lambda: out.copy_(torch.full((1,), number[0])))[0].synchronize()
        assert out.item() == 1

    def test_what_is_uploaded_meanwhile_is_somebody_elses_later(self):
        from stepseg.packed import layout

        with pytest.raises(AssertionError, match="somebody else's"):
            Lane(torch.device("cpu")).run(
                "work", lambda: layout.upload([1], torch.int64, torch.device("cpu"))
            )

    def test_nothing_happens_before_somebody_waits(self):
        out, source = torch.zeros(1), torch.ones(1)
        lane = Lane(torch.device("cpu"))
        lane.run("work", lambda: out.copy_(source))[0].synchronize()
        source.fill_(7)
        event, _ = lane.run("work", lambda: None)
        assert out.item() == 1
        event.synchronize()
        assert out.item() == 7

    def test_what_is_not_kept_is_lost(self):
        found = []
        event, _ = Lane(torch.device("cpu")).run("work", lambda: found.append(torch.ones(1) + 1))
        event.synchronize()
        assert found[-1].isnan()

    @pytest.mark.parametrize("wait", [torch.Tensor.tolist, torch.nonzero, torch.Tensor.item])
    def test_nobody_waits_within(self, wait):
        numbers = torch.ones(1)
        with pytest.raises(AssertionError, match="cannot be recorded"):
            Lane(torch.device("cpu")).run("work", lambda: wait(numbers))

    def test_lengths_that_the_host_knew(self, monkeypatch):
        """Attention by the numbers of the recording is wrong for the next images."""
        from stepseg.runtime import captured

        seen = {}

        def by_host(cu_seqlens, lengths):
            host = seen.setdefault(len(lengths), cu_seqlens.clone())  # as of the first recording
            return captured_padded(host, lengths)

        captured_padded = captured.padded
        monkeypatch.setattr(captured, "padded", by_host)
        model, reduction = toy_segmenter().prepare_for_inference(), SYSTEMS["dcts"]
        graphs = with_graphs(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model(toy_images(2), reduction=reduction)
            images = torch.zeros(2, 3, 80, 112)
            found, _ = module._Run(graphs._steps(images, reduction, 0), images).result()
        assert not torch.allclose(found.scores(), graphs._plain(images, reduction).scores())


def test_buffers_are_made_once():
    model, reduction = toy_segmenter().prepare_for_inference(), SYSTEMS["step"]
    graphs = with_graphs(model)
    model(toy_images(2), reduction=reduction)
    (held,) = graphs._captured.values()
    assert isinstance(held, Captured)
    before = {name: tensor.data_ptr() for name, tensor in held.held.items()}
    for _ in range(3):
        model(toy_images(2), reduction=reduction)
    assert {name: tensor.data_ptr() for name, tensor in held.held.items()} == before
