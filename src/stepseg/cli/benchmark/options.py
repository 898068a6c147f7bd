"""What `stepseg-benchmark` was asked for, checked before anything is built or timed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch

from stepseg.checkpoint import Checkpoint, read_checkpoint
from stepseg.cli.config import checkpoint_reduction, model_config
from stepseg.cli.typed import typed_of
from stepseg.grid.systems import checked_names, named_system
from stepseg.merging.rules import Cropr
from stepseg.model import Reduction
from stepseg.model_config import ExitConfig, ModelConfig, ReductionConfig
from stepseg.plain_types import is_whole
from stepseg.profile.benchmark import Rounds
from stepseg.profile.spread import spread_tokens
from stepseg.profile.tokens import prescribe, prescribe_paper
from stepseg.reduction_file import reduction_of
from stepseg.runtime.choice import DTYPES, choose_device, choose_runtime

FROM_CHECKPOINT = ("backbone", "policy", "heads", "num_classes")
"""What a checkpoint decides; saying it again on the command line would be a contradiction."""


@dataclass(frozen=True, slots=True)
class Options:
    """The choices of one run."""

    image_size: tuple[int, int]
    batch_sizes: tuple[int, ...]
    protocols: tuple[Rounds, ...]
    tokens: str | tuple[int, ...]
    """``paper``, ``measured``, or counts per stage."""
    spread: float
    """Of prescribed counts between the images of a batch."""
    in_flight: tuple[int, ...]
    """How many batches at a time, for throughput; empty: it is not measured."""
    device: torch.device
    dtype: torch.dtype
    runtimes: tuple[str, ...]

    @property
    def dtype_name(self) -> str:
        """As users write it."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Read plain values.

        Raises:
            ValueError: a value that cannot be meant; says which and what could.

        """
        side = values["resolution"]
        image_size = tuple(side) if isinstance(side, list) else (side, side)
        if len(image_size) != 2 or not all(isinstance(s, int) and s > 0 for s in image_size):
            raise ValueError(f"resolution is a number of pixels or [height, width], got {side}")
        batch_sizes = _list(values["batch_sizes"])
        if not batch_sizes or not all(isinstance(b, int) and b > 0 for b in batch_sizes):
            raise ValueError(f"batch_sizes are positive numbers, got {values['batch_sizes']}")
        if values["map"] not in (True, False, "both"):
            raise ValueError(f"map is true, false or both, got {values['map']!r}")
        device = choose_device(values["device"])
        dtype = _dtype(values["dtype"], device)
        in_flight = _in_flight(values, device)
        named = _list(values["runtimes"] or values["runtime"])
        runtimes = tuple(choose_runtime(str(name), device) for name in named)
        if values["parts"] and runtimes != ("eager",):
            raise ValueError(
                f"parts=true times every block, and runtime={','.join(map(str, named))} has no "
                f"borders between them: use runtime=eager"
            )
        for key, least in (("warmup", 0), ("iterations", 1), ("num_images", 1)):
            if not isinstance(values[key], int) or values[key] < least:
                raise ValueError(f"{key} must be at least {least}, got {values[key]!r}")
        threads = values["threads"]
        if threads is not None and (not is_whole(threads) or threads < 1):
            raise ValueError(
                f"threads must be at least 1, or null for PyTorch's choice, got {threads!r}"
            )
        maps = (True, False) if values["map"] == "both" else (values["map"],)
        return cls(
            image_size=image_size,
            batch_sizes=tuple(batch_sizes),
            protocols=tuple(Rounds(values["warmup"], values["iterations"], m) for m in maps),
            tokens=_tokens(values),
            spread=values["tokens_spread"],
            in_flight=in_flight,
            device=device,
            dtype=DTYPES[dtype],
            runtimes=runtimes,
        )


def _dtype(name: Any, device: torch.device) -> str:
    """What tensor cores are made for, where there are any."""
    if name not in ("auto", *DTYPES):
        raise ValueError(f"dtype={name!r}: choose one of auto, {', '.join(DTYPES)}")
    if name != "auto":
        return str(name)
    has_cores = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return "bf16" if has_cores else "fp32"


def _in_flight(values: Mapping[str, Any], device: torch.device) -> tuple[int, ...]:
    given = values["in_flight"]
    if given is None:
        return (1, 2, 4) if device.type == "cuda" and values["speed"] else ()
    numbers = _list(given)
    if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in numbers):
        raise ValueError(f"in_flight are positive numbers of batches at a time, got {given}")
    return tuple(numbers)


def systems(
    values: Mapping[str, Any], overrides: Sequence[str]
) -> tuple[ModelConfig, dict[str, ReductionConfig], Checkpoint | None]:
    """The model with heads wherever a system lets tokens leave, and the systems by name."""
    checkpoint = None
    if values["ckpt_path"]:
        if given := typed_of(FROM_CHECKPOINT, overrides):
            raise ValueError(
                f"{', '.join(given)}: the checkpoint {values['ckpt_path']!r} decides that, drop it"
            )
        checkpoint = read_checkpoint(values["ckpt_path"])
    names = checked_names([str(name) for name in _list(values["reductions"])])
    one_more = values.get("reduction")
    own = checkpoint.config.reduction if checkpoint else None
    chosen = {n: named_system(n, values["systems"], own, overrides) for n in names}
    if one_more and checkpoint is not None:
        tuned = checkpoint_reduction(one_more, checkpoint.config)
        chosen[one_more["name"]] = ReductionConfig.from_dict(tuned)
    elif one_more:
        chosen[one_more["name"]] = reduction_of(one_more)
    if checkpoint is not None:
        return checkpoint.config, chosen, checkpoint
    config = model_config(
        {**values, "reduction": {"merge": None, "exit": None}}, values["num_classes"]
    )
    blocks = {block for system in chosen.values() if system.exit for block in system.exit.blocks}
    heads = ExitConfig(heads=tuple(sorted(blocks))) if blocks else None
    scored = next((s.inside for s in chosen.values() if isinstance(s.inside, Cropr)), None)
    return replace(config, reduction=ReductionConfig(exit=heads, inside=scored)), chosen, None


def with_tokens(
    reductions: Mapping[str, Reduction], options: Options, patch_size: int
) -> dict[str, Reduction]:
    """The systems with the prescribed token counts, or as they are where counts are measured."""
    if options.tokens == "measured":
        if options.spread:
            raise ValueError("tokens_spread varies prescribed counts; measured ones vary already")
        return dict(reductions)
    height, width = options.image_size
    grid = (-(-height // patch_size), -(-width // patch_size))
    result = {}
    for name, reduction in reductions.items():
        try:
            prescribed = (
                prescribe_paper(reduction, grid)
                if isinstance(options.tokens, str)
                else prescribe(reduction, grid, options.tokens)
            )
            result[name] = spread_tokens(prescribed, grid, options.spread)
        except ValueError as error:
            raise ValueError(f"reductions={name}: {error}") from error
    return result


def _tokens(values: Mapping[str, Any]) -> str | tuple[int, ...]:
    tokens = values["tokens"]
    if tokens is None:
        return "measured" if values["ckpt_path"] else "paper"
    if isinstance(tokens, list) and tokens and all(isinstance(n, int) for n in tokens):
        return tuple(tokens)
    if tokens not in ("paper", "measured"):
        raise ValueError(
            f"tokens is paper, measured or a list of counts per stage such as [700,456,432], got "
            f"{tokens!r}"
        )
    if tokens == "measured" and not values["ckpt_path"]:
        raise ValueError(
            "tokens=measured needs trained weights: give ckpt_path=<checkpoint of stepseg-train>, "
            "or prescribe counts (tokens=paper, tokens=[...])"
        )
    return str(tokens)


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
