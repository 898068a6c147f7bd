"""Part 1: is it right on this device, and what do the pieces cost?"""

import copy
import importlib.util
import os
import subprocess
import sys
import time
import warnings
from contextlib import nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpu.setting import ROOT, SYNC, Rows, Setting
from stepseg.export.static import StaticSegmenter
from stepseg.ops.attention import varlen_attention
from stepseg.ops.upsample import disputed_argmax, upsampled_argmax
from stepseg.packed import Segments
from stepseg.profile.peak import matmul_peak
from stepseg.runtime.apply import apply_runtime
from stepseg.runtime.choice import RUNTIMES
from stepseg.runtime.lane import Lane
from stepseg.vit.pos_embed import resize_pos_embed

HEADS, CHANNELS = 16, 64
TEST_SECONDS = 100
"""Of the project's tests, which are a process of their own."""


def place(setting: Setting, rows: Rows) -> None:
    """What the device can do at all."""
    for dtype in (torch.bfloat16, torch.float32):
        rate = matmul_peak(setting.device, dtype) / 1e9
        rows.add(what="matmul", dtype=str(dtype), gmacs_per_s=rate)
    numbers = 2**20 if setting.toy else 2**29
    source = torch.zeros(numbers, dtype=torch.bfloat16, device=setting.device)
    target = torch.empty_like(source)
    seconds = setting.device_seconds(lambda: target.copy_(source))
    rows.add(what="copy", gb_per_s=4 * numbers / seconds / 1e9)


def own_tests(setting: Setting, rows: Rows) -> None:
    """The project's tests that want a GPU."""
    tools = all(importlib.util.find_spec(name) for name in ("pytest", "hypothesis"))
    if setting.device.type != "cuda" or not tools:
        rows.add(skipped="needs a GPU, pytest and hypothesis")
        return
    # Others import what a machine without network may not have.
    files = [str(p) for p in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in p.read_text()]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *files]
    source = {**os.environ, "PYTHONPATH": f"{ROOT}/src"}  # nothing need be installed
    done = subprocess.run(
        command, cwd=ROOT, env=source, capture_output=True, text=True, check=False,
        timeout=TEST_SECONDS,
    )  # fmt: skip
    rows.add(passed=done.returncode == 0, last_lines=done.stdout.splitlines()[-15:])


def agreement(setting: Setting, rows: Rows) -> None:
    """The whole model here against float32 on the CPU, and what was given up at first use."""
    images = setting.images(2, 512)
    here = setting.model("vit_base", 150).prepare_for_inference()
    there = copy.deepcopy(here).cpu()
    for name, reduction in setting.systems("vit_base", 512, ragged=True).items():
        with torch.inference_mode():
            expected = there(images.cpu(), reduction=reduction)
            for dtype in (torch.float32, setting.dtype):
                exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
                with warnings.catch_warnings(record=True) as told, exact:
                    warnings.simplefilter("always")
                    model = copy.deepcopy(here).to(dtype)
                    for _ in range(2):  # the first use compares, the second is what users get
                        output = model(images.to(dtype), reduction=reduction)
                        labels = output.prediction().cpu()
                same = (labels == expected.prediction()).float().mean()
                apart = (output.cell_scores().cpu() - expected.cell_scores()).abs()
                rows.add(
                    system=name,
                    dtype=str(dtype),
                    pixels_alike=float(same),
                    scores_apart=float(apart.max()),
                    tokens_alike=output.tokens_per_stage == expected.tokens_per_stage,
                    warnings=[str(w.message)[:200] for w in told],
                )
        if setting.toy and name == "cts":
            return


def runtimes_agree(setting: Setting, rows: Rows) -> None:
    """Every runtime against eager on ragged batches: the first use compares, the rest must hold."""
    images = setting.images(3, 512).to(setting.dtype)
    eager = setting.model("vit_base", 150).prepare_for_inference().to(setting.dtype)
    systems = setting.systems("vit_base", 512, ragged=True)
    for runtime in runtimes(setting):
        model = apply_runtime(copy.deepcopy(eager), runtime)
        for name in ("none", "step"):
            with torch.inference_mode(), warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                alike = []
                for batch in (images, images[1:], images.flip(0)):
                    expected = eager(batch, reduction=systems[name]).prediction()
                    labels = model(batch, reduction=systems[name]).prediction()
                    alike.append(float((labels == expected).float().mean()))
            said = [str(w.message)[:200] for w in told]
            rows.add(compared=runtime, system=name, pixels_alike=alike, warnings=said)


def runtimes(setting: Setting) -> tuple[str, ...]:
    """What there is to compare here; compiling costs a toy run more than all the rest."""
    if setting.toy:
        return ("eager",)
    return tuple(r for r in RUNTIMES if r != "graphs" or setting.device.type == "cuda")


def attention(setting: Setting, rows: Rows) -> None:
    """Attention of different lengths, forward and backward, against float64 image by image."""
    lengths = [3, 0, 7, 5] if setting.toy else [1621, 736, 0, 904, 130]
    segments = Segments.from_lengths(lengths, setting.device)
    qkv = torch.randn(sum(lengths), 3, 2 if setting.toy else HEADS, CHANNELS)
    exact = qkv.double().requires_grad_()
    expected = _by_image(exact, lengths)
    upstream = torch.randn_like(expected)
    (expected_gradient,) = torch.autograd.grad(expected, exact, upstream)
    for dtype in (setting.dtype, torch.float32):
        x = qkv.to(setting.device, dtype).requires_grad_()
        out = varlen_attention(*x.unbind(1), segments, segments)
        (gradient,) = torch.autograd.grad(out, x, upstream.to(setting.device, dtype))
        with torch.inference_mode():
            for _ in range(2):
                at_inference = varlen_attention(*x.detach().unbind(1), segments, segments)
        rows.add(
            dtype=str(dtype),
            forward_apart=float((out.detach().cpu().double() - expected).abs().max()),
            inference_apart=float((at_inference.cpu().double() - expected).abs().max()),
            gradient_apart=float((gradient.cpu().double() - expected_gradient).abs().max()),
        )


def _by_image(qkv: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    pieces = [piece.permute(1, 2, 0, 3) for piece in qkv.split(lengths)]
    out = [F.scaled_dot_product_attention(*piece[:, None])[0] for piece in pieces if piece.numel()]
    return torch.cat([o.transpose(0, 1) for o in out])


def host_syncs(setting: Setting, rows: Rows) -> None:
    """How often the host waits in a forward pass: once after merging and once per exit."""
    model = setting.model("vit_base", 150).prepare_for_inference().to(setting.dtype)
    images, on_cuda = setting.images(2, 512).to(setting.dtype), setting.device.type == "cuda"
    for name, reduction in setting.systems("vit_base", 512).items():
        allowed = (reduction.merge is not None) + len(reduction.exit_blocks)
        with torch.inference_mode(), warnings.catch_warnings(record=True) as told:
            for _ in range(2):
                model(images, reduction=reduction).prediction()
            if on_cuda:
                warnings.simplefilter("always")
                told.clear()
                torch.cuda.set_sync_debug_mode("warn")
            try:
                model(images, reduction=reduction).prediction()
            finally:
                if on_cuda:
                    torch.cuda.set_sync_debug_mode("default")
        seen = [str(w.filename) + ":" + str(w.lineno) for w in told if SYNC in str(w.message)]
        rows.add(system=name, allowed=allowed, seen=len(seen) if on_cuda else None, where=seen)


def attention_kernels(setting: Setting, rows: Rows) -> None:
    """The first call on new token counts, and the rate on known ones, by kernel."""
    kernels = {
        "default": None,
        "flash": SDPBackend.FLASH_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
    }
    if setting.device.type != "cuda":
        kernels = {"default": None}

    def attend(tokens: int) -> None:
        x = torch.randn(3, 1, HEADS, tokens, CHANNELS, dtype=setting.dtype, device=setting.device)
        F.scaled_dot_product_attention(*x)

    for name, kernel in kernels.items():
        first = 20 if setting.toy else 1000
        with torch.inference_mode(), sdpa_kernel(kernel) if kernel else nullcontext():
            attend(first)
            firsts = []
            for tokens in range(first + 1, first + (2 if setting.toy else 61), 6):
                setting.wait()
                start = time.perf_counter()
                attend(tokens)
                setting.wait()
                firsts.append(1000 * (time.perf_counter() - start))
            rows.add(kernel=name, what="new tokens", first_calls_ms=firsts)
            for tokens in (32,) if setting.toy else (736, 1024, 1621, 4096):
                shape = (3, 1, HEADS, tokens, CHANNELS)
                x = torch.randn(shape, dtype=setting.dtype, device=setting.device)
                seconds = setting.device_seconds(partial(F.scaled_dot_product_attention, *x))
                gmacs = 2 * HEADS * CHANNELS * tokens**2 / 1e9
                rows.add(
                    kernel=name, what="attention", tokens=tokens, ms=1000 * seconds,
                    gmacs_per_s=gmacs / seconds,
                )  # fmt: skip


def products(setting: Setting, rows: Rows) -> None:
    """The MLP's product of a ViT-L on as many rows as there are tokens."""
    dim = 64 if setting.toy else 1024
    weight = torch.randn(4 * dim, dim, dtype=setting.dtype, device=setting.device)
    for tokens in (32,) if setting.toy else (736, 768, 1024, 1621, 1664, 4096, 12968):
        x = torch.randn(tokens, dim, dtype=setting.dtype, device=setting.device)
        seconds = setting.device_seconds(partial(F.linear, x, weight))
        rate = 4 * tokens * dim**2 / 1e9 / seconds
        rows.add(tokens=tokens, us=1e6 * seconds, gmacs_per_s=rate)


def pieces(setting: Setting, rows: Rows) -> None:
    """Positions, the policy in all its forms, and the map in both ways."""
    device, side = setting.device, setting.size(1024)
    positions = torch.randn(1, 14 * 14, 64 if setting.toy else 1024, device=device)
    with torch.inference_mode():
        seconds = setting.device_seconds(lambda: resize_pos_embed(positions, (side // 16,) * 2))
        rows.add(what="positions", ms=1000 * seconds)
        policy = setting.model("vit_base", 19).prepare_for_inference().policy
        for dtype in (torch.float32, setting.dtype):
            images = setting.images(1, 1024).to(dtype)
            for layout in (torch.contiguous_format, torch.channels_last):
                features = policy.features.to(dtype).to(memory_format=layout)
                x = images.contiguous(memory_format=layout)
                for search in (False, True):
                    with torch.backends.cudnn.flags(enabled=True, benchmark=search):
                        seconds = setting.device_seconds(partial(features, x))
                        with_host = setting.seconds(partial(features, x))
                    rows.add(
                        what="policy CNN", dtype=str(dtype), ms=1000 * seconds,
                        host_ms=1000 * with_host, layout=str(layout), cudnn_benchmark=search,
                    )  # fmt: skip
        for classes, pixels in ((150, 512), (19, 1024)):
            cells = setting.size(pixels) // 16
            scores = torch.rand(1, cells, cells, 5 if setting.toy else classes, device=device)
            for way in (upsampled_argmax, disputed_argmax):
                seconds = setting.device_seconds(partial(way, scores, 16))
                rows.add(what=way.__name__, classes=classes, px=pixels, ms=1000 * seconds)


def static(setting: Setting, rows: Rows) -> None:
    """The model of fixed counts as a single CUDA graph, against itself without one."""
    name, pixels = "vit_large", 1024
    model = setting.model(name, 19).prepare_for_inference().to(setting.dtype)
    images = setting.images(1, pixels).to(setting.dtype)
    for system, reduction in setting.systems(name, pixels).items():
        whole = StaticSegmenter(model, reduction, (setting.size(pixels),) * 2).eval()
        with torch.inference_mode():
            expected = whole(images)
            eager = setting.seconds(partial(whole, images))
            figures = {"system": system, "eager_ms": 1000 * eager}
            if "graphs" in runtimes(setting):
                labels, lane = torch.empty_like(expected), Lane(setting.device)
                replay = partial(_replay, lane, whole, images, labels)
                replay()
                setting.wait()
                same = float((labels == expected).float().mean())
                figures |= {"graph_ms": 1000 * setting.seconds(replay), "pixels_alike": same}
        rows.add(**figures)
        if setting.toy:
            return


def _replay(lane: Lane, whole: StaticSegmenter, images: torch.Tensor, labels: torch.Tensor) -> None:
    lane.begin()
    lane.run("whole", lambda: labels.copy_(whole(images)))
    with lane.reading():
        pass


def trace(setting: Setting, rows: Rows) -> None:
    """Kernels of one eager STEP image: how many, and which take the time."""
    name = "vit_large"
    model = setting.model(name, 19).prepare_for_inference().to(setting.dtype)
    images, step = setting.images(1, 1024).to(setting.dtype), setting.systems(name, 1024)["step"]
    activities = [torch.profiler.ProfilerActivity.CPU]
    if setting.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.inference_mode():
        for _ in range(1 if setting.toy else 3):
            model(images, reduction=step).prediction()
        with torch.profiler.profile(activities=activities) as profile:
            model(images, reduction=step).prediction()
            setting.wait()
    events = profile.key_averages()
    on = "device_time_total" if setting.device.type == "cuda" else "cpu_time_total"
    longest = sorted(events, key=lambda e: -getattr(e, on))[:25]
    rows.add(
        launches=sum(e.count for e in events if "LaunchKernel" in e.key),
        longest=[[e.key[:80], e.count, round(getattr(e, on) / 1000, 3)] for e in longest],
    )
