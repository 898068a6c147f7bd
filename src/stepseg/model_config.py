"""The numbers of a model as plain data: from YAML or a checkpoint, checked once.

`stepseg.build` turns a `ModelConfig` into a model. Nothing in here names code to run, so that a
configuration out of a foreign checkpoint is only numbers and words.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Self

from stepseg.dcts.merge import MergeRule
from stepseg.heads.cascade import check_cascade
from stepseg.heads.eomt import EomtNumbers
from stepseg.heads.exit import (
    BudgetExit,
    ConfidenceExit,
    ExitRule,
    MarginExit,
    RandomExit,
    UniformExit,
)
from stepseg.heads.linear import KINDS
from stepseg.merging.rules import RULES, Algm, Cropr, ToMe
from stepseg.plain_types import check_keys, choices, from_values
from stepseg.reduction import Reduction
from stepseg.vit.architecture import Architecture, RopeNumbers

PATCH_SIZE = 16

BACKBONES: dict[str, dict[str, int]] = {
    "vit_tiny": {"dim": 192, "depth": 12, "num_heads": 3},
    "vit_small": {"dim": 384, "depth": 12, "num_heads": 6},
    "vit_base": {"dim": 768, "depth": 12, "num_heads": 12},
    "vit_large": {"dim": 1024, "depth": 24, "num_heads": 16},
}
"""Plain ViTs, without class token and final norm, as in SegViT and DToP."""

CALIBRATION_IMAGES, TEMPERATURE_IMAGES = 96, 32
"""Whole training images on which a policy gets a correction per window size, and an exit head its
temperature, a single number."""
EXIT_RULES = ("confidence", "margin", "random", "uniform", "budget")


class _Config:
    """Construction from plain mappings, with errors that name the key."""

    WHERE: ClassVar[str] = ""
    """What users call this part."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from a mapping; lists become tuples, unknown keys are refused."""
        return from_values(cls, values, cls.WHERE)


@dataclass(frozen=True, slots=True)
class BackboneConfig(_Config):
    """The encoder."""

    WHERE: ClassVar[str] = "backbone"

    name: str = "vit_base"
    """One of `BACKBONES`, or any supported model of timm, without a tag."""
    depth: int | None = None
    """Number of blocks; None: the standard one."""
    pretrained: str | None = None
    """A timm model name with its tag, fetched by timm."""
    checkpoint: str | None = None
    """A local timm state dict, instead."""
    mean: tuple[float, float, float] | None = None
    """What images are normalised by, RGB in [0, 1]; None: as the weights were trained, .5 from
    scratch. `stepseg.build.resolved` fills it in, so that a checkpoint says it."""
    std: tuple[float, float, float] | None = None
    """Likewise."""
    drop_path: float = 0.0
    patch_size: int = PATCH_SIZE
    """Side of a patch in pixels; kernels for patches of another size are resampled."""
    pos_grid: int | None = None
    """Side of the learned position grid when training from scratch; None: 14, or that of timm's
    model. Weights bring their own."""
    pos_antialias: bool = False
    """Resize that grid with antialiasing, as timm does."""
    rope_bfloat16: bool = False
    """Round periods of rotary positions to bfloat16, as the authors of DINOv3 do."""
    rope_shift: float = 0.0
    """Augmentation of rotary positions in training, as `RopeNumbers.shift`; 0: none."""
    rope_jitter: float = 1.0
    """As `RopeNumbers.jitter`; 1: none."""
    rope_rescale: float = 1.0
    """As `RopeNumbers.rescale`; 1: none."""
    checkpoint_blocks: bool | int = False
    """Recompute blocks in the backward pass to save memory: all, or so many first ones."""
    frozen: bool = False
    """Learn nothing: heads and policy train alone, on features in evaluation mode."""
    architecture: Architecture | None = None
    """The encoder's numbers; None: as `name` says. `stepseg.build.resolved` fills in those of timm,
    so that a checkpoint says them."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """As of every part; the architecture of a checkpoint is a mapping, too."""
        values = dict(values)
        where, given = f"{cls.WHERE}.architecture", values.get("architecture")
        if isinstance(given, Mapping):
            given = dict(given)
            if isinstance(given.get("rope"), Mapping):
                given["rope"] = from_values(RopeNumbers, given["rope"], f"{where}.rope")
            values["architecture"] = from_values(Architecture, given, where)
        return from_values(cls, values, cls.WHERE)

    def numbers(self) -> Architecture:
        """What the encoder is: as a checkpoint says, a plain ViT, or read from timm's model.

        Raises:
            ValueError: timm's model has features that are missing here, or no rotary positions to
                change.

        """
        numbers = self.architecture or self._named()
        changes: dict[str, Any] = {
            "patch_size": self.patch_size,
            "pos_antialias": self.pos_antialias,
            "depth": self.depth or numbers.depth,
        }
        if numbers.pos_grid is not None:
            changes["pos_grid"] = self.pos_grid or numbers.pos_grid
        rope: dict[str, Any] = {
            "bfloat16_periods": self.rope_bfloat16,
            "shift": self.rope_shift,
            "jitter": self.rope_jitter,
            "rescale": self.rope_rescale,
        }
        if numbers.rope is not None:
            changes["rope"] = replace(numbers.rope, **rope)
        elif rope != dict(zip(rope, (False, 0, 1, 1), strict=True)):
            raise ValueError(
                f"backbone.rope_* change rotary positions, which backbone.name={self.name!r} has "
                f"not"
            )
        return replace(numbers, **changes)

    def _named(self) -> Architecture:
        if self.name in BACKBONES:
            sizes: dict[str, Any] = dict(BACKBONES[self.name])
            return Architecture(**sizes, hidden_dim=4 * sizes["dim"])
        from stepseg.vit.timm_models import architecture_of, is_known, near_names  # bring timm

        if not is_known(self.name):
            near = ", ".join(near_names(self.name)) or "vit_base_patch14_reg4_dinov2"
            raise ValueError(
                f"backbone.name={self.name!r}: {choices(self.name, BACKBONES)}, or a supported "
                f"model of timm without its tag (near it: {near}); a tag chooses weights and goes "
                f"to backbone.pretrained"
            )
        return architecture_of(self.name)

    def __post_init__(self) -> None:
        if not self.name.isidentifier() and self.architecture is not None:  # it names files, too
            raise ValueError(f"backbone.name={self.name[:80]!r} is no name of a model")
        if self.patch_size < 1:
            raise ValueError(f"backbone.patch_size must be positive, got {self.patch_size}")
        if self.depth is not None and self.depth < 1:
            raise ValueError(f"backbone.depth counts blocks and must be positive, got {self.depth}")
        if self.pos_grid is not None and self.pos_grid < 1:
            raise ValueError(f"backbone.pos_grid must be at least 1, got {self.pos_grid}")
        if self.pretrained and self.checkpoint:
            raise ValueError(
                f"backbone.pretrained={self.pretrained!r} and backbone.checkpoint="
                f"{self.checkpoint!r} exclude each other"
            )
        trained = (self.rope_shift, self.rope_jitter, self.rope_rescale, self.checkpoint_blocks)
        if self.frozen and trained != (0, 1, 1, False):
            raise ValueError(
                "backbone.frozen=true keeps no graph and stays in evaluation: rope_shift=0, "
                "rope_jitter=1, rope_rescale=1 and checkpoint_blocks=false belong to it"
            )
        for key in ("mean", "std"):
            value = getattr(self, key)
            if value is not None and (len(value) != 3 or not all(0 <= v <= 1 for v in value)):
                raise ValueError(f"backbone.{key} is of RGB in [0, 1], three numbers, got {value}")
        if self.std is not None and min(self.std) == 0:
            raise ValueError(f"backbone.std divides and must be positive, got {self.std}")


@dataclass(frozen=True, slots=True)
class PolicyConfig(_Config):
    """The policy network."""

    WHERE: ClassVar[str] = "policy"

    name: str = "efficientnet_lite0"
    """A timm model with features, or ``oracle``."""
    training: str = "joint"
    """``joint`` beside the segmenter, or ``frozen``."""
    pretrained: bool = False
    """Load timm's ImageNet weights."""
    checkpoint: str | None = None
    """A policy trained before (`stepseg-train task=policy`)."""
    windows: tuple[int, ...] = (2, 4, 8, 16)
    calibration_images: int = CALIBRATION_IMAGES
    """Whole training images on which one that learns is corrected before every validation."""

    def __post_init__(self) -> None:
        if self.calibration_images < 0:
            raise ValueError(
                f"policy.calibration_images counts images, 0 is none, got {self.calibration_images}"
            )


@dataclass(frozen=True, slots=True)
class HeadConfig(_Config):
    """The decoder and the exit heads."""

    WHERE: ClassVar[str] = "heads"

    num_layers: int = 3
    dropout: float = 0.1
    dim: int | None = None
    """Channels; None: half of the encoder's."""
    num_heads: int | None = None
    """Attention heads; None: as in the literature for the backbone."""
    cascade: tuple[int, ...] | None = None
    """Blocks that the decoder reads besides the last, as in SegViT; None: the last one only."""
    init: str = "segvit"
    """What they are trained from: ``segvit``, as published, or ``pytorch``."""
    class_source: str = "final"
    """Whose class probabilities enter the map: ``final`` or ``own``."""
    exit: str = "atm"
    """Of what kind exit heads are, one of `stepseg.heads.linear.KINDS`."""
    calibration_images: int | None = None
    """Whole training images on which exit heads get a temperature before every validation; 0: none,
    as published; None: 32 for light heads, 0 for ``atm``."""
    frozen_decoder: bool = False
    """The decoder learns nothing; with a frozen encoder and policy exit heads learn alone."""

    @property
    def temperature_images(self) -> int:
        """`calibration_images` as a number."""
        if self.calibration_images is not None:
            return self.calibration_images
        return 0 if self.exit == "atm" else TEMPERATURE_IMAGES

    among_all: bool = False
    """Queries of the decoder are classified among all classes, as in checkpoints of SegViT."""
    eomt: EomtNumbers | None = None
    """The decoder is that of EoMT, out of a checkpoint (docs/accelerate.md); None: an ATM head, for
    which the other numbers are."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """As of every part; the decoder of a checkpoint is a mapping, too."""
        values = dict(values)
        if isinstance(values.get("eomt"), Mapping):
            values["eomt"] = from_values(EomtNumbers, values["eomt"], f"{cls.WHERE}.eomt")
        return from_values(cls, values, cls.WHERE)

    def __post_init__(self) -> None:
        _choose("heads.exit", self.exit, KINDS)
        if self.temperature_images < 0:
            raise ValueError(
                f"heads.calibration_images counts images, 0 is none, got {self.calibration_images}"
            )
        for key in ("num_layers", "dim", "num_heads"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"heads.{key} must be at least 1, got {value}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"heads.dropout lies in [0, 1), got {self.dropout}")


@dataclass(frozen=True, slots=True)
class ExitConfig(_Config):
    """Exit heads and the rule by which tokens leave."""

    WHERE: ClassVar[str] = "reduction.exit"

    blocks: tuple[int, ...] = ()
    """Where tokens may leave, counted from 1."""
    heads: tuple[int, ...] | None = None
    """Where heads are trained; None: at `blocks`. A superset lets placements be compared later."""
    rule: str = "confidence"
    """One of `EXIT_RULES`."""
    threshold: float = 0.9
    keep_per_class: int = 5
    tokens: tuple[int, ...] = ()
    """Rule `budget`: tokens that stay per image after each exit."""
    seed: int = 0
    """Rule `random`."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """As of every part; `blocks` may be null, which is none: a checkpoint brings its own."""
        chosen = {k: v for k, v in values.items() if k != "blocks" or v is not None}
        return from_values(cls, chosen, cls.WHERE)

    def __post_init__(self) -> None:
        _choose("reduction.exit.rule", self.rule, EXIT_RULES)
        if self.tokens and self.rule != "budget":
            raise ValueError(
                f"reduction.exit.tokens={self.tokens} belongs to the rule 'budget', not "
                f"{self.rule!r}"
            )
        self.build()

    @property
    def head_blocks(self) -> tuple[int, ...]:
        """Where heads stand."""
        return self.blocks if self.heads is None else tuple(sorted({*self.heads, *self.blocks}))

    def build(self) -> ExitRule:
        """Make the rule."""
        if self.rule == "budget":
            return BudgetExit(self.tokens)
        confidence = ConfidenceExit(self.threshold, self.keep_per_class)
        if self.rule == "margin":
            return MarginExit(self.threshold, self.keep_per_class)
        if self.rule == "random":
            return RandomExit(confidence, self.seed)
        return UniformExit(confidence) if self.rule == "uniform" else confidence


CRITERIA = {"thresholds": ("top_k", "top_k_cells"), "top_k": ("thresholds",)}
"""What windows are chosen by, with what each puts out of force: they exclude each other."""


def change_merge(merge: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values of `reduction.merge` with others in their place; a new criterion replaces the old.

    With both criteria among the changes `top_k` counts, the exception beside the usual thresholds.
    """
    criterion = next((key for key in ("top_k", "thresholds") if key in changes), None)
    return {**merge, **changes, **dict.fromkeys(CRITERIA.get(criterion or "", ()))}


@dataclass(frozen=True, slots=True)
class InputConfig(_Config):
    """How large the image is shown."""

    WHERE: ClassVar[str] = "reduction.input"

    cell: int | None = None
    """Pixels of the image, per side, that one patch shows; None: as many as it has."""

    def __post_init__(self) -> None:
        if self.cell is not None and self.cell < 1:
            raise ValueError(f"reduction.input.cell is a number of pixels, got {self.cell}")


@dataclass(frozen=True, slots=True)
class BudgetConfig(_Config):
    """What no image may exceed."""

    WHERE: ClassVar[str] = "reduction.budget"

    gmacs_per_image: float | None = None
    """As of `Reduction`; None: thresholds are as they are."""


@dataclass(frozen=True, slots=True)
class ReductionConfig(_Config):
    """What is merged and who leaves."""

    WHERE: ClassVar[str] = "reduction"

    merge: MergeRule | None = None
    exit: ExitConfig | None = None
    inside: ToMe | Algm | Cropr | None = None
    input: InputConfig = field(default_factory=InputConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from nested mappings; a part that is null or absent is off."""
        values = dict(values)
        check_keys(cls.WHERE, values, ("merge", "exit", "inside", "input", "budget"))
        merge, exit_ = values.get("merge"), values.get("exit")
        inside, input_ = values.get("inside"), values.get("input")
        if isinstance(merge, Mapping):
            merge = from_values(MergeRule, merge, "reduction.merge")
        if isinstance(exit_, Mapping):
            exit_ = ExitConfig.from_dict(exit_)
        if isinstance(inside, Mapping):
            _choose("reduction.inside.rule", inside.get("rule"), RULES)
            inside = from_values(RULES[inside["rule"]], inside, "reduction.inside")
        if not isinstance(input_, InputConfig):
            input_ = InputConfig.from_dict(input_ or {})
        budget = values.get("budget")
        if not isinstance(budget, BudgetConfig):
            budget = BudgetConfig.from_dict(budget or {})
        return cls(merge=merge, exit=exit_, inside=inside, input=input_, budget=budget)

    def build(self) -> Reduction:
        """Make the reduction."""
        leaves = self.exit is not None and bool(self.exit.blocks)
        return Reduction(
            merge=self.merge,
            exit=self.exit.build() if self.exit and leaves else None,
            exit_blocks=tuple(self.exit.blocks) if self.exit else (),
            inside=self.inside,
            cell=self.input.cell,
            gmacs_per_image=self.budget.gmacs_per_image,
        )


@dataclass(frozen=True, slots=True)
class ModelConfig(_Config):
    """Everything that `build_segmenter` needs."""

    num_classes: int
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    policy: PolicyConfig | None = field(default_factory=PolicyConfig)
    heads: HeadConfig = field(default_factory=HeadConfig)
    reduction: ReductionConfig = field(default_factory=ReductionConfig)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from nested mappings, as they stand in YAML and in checkpoints."""
        parts = {
            "backbone": BackboneConfig,
            "policy": PolicyConfig,
            "heads": HeadConfig,
            "reduction": ReductionConfig,
        }
        built = {
            key: parts[key].from_dict(value)  # type: ignore[attr-defined]
            if key in parts and isinstance(value, Mapping)
            else value
            for key, value in values.items()
        }
        return super(ModelConfig, cls).from_dict(built)

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise ValueError(
                f"num_classes must be at least 2, got {self.num_classes}: beside a single class "
                f"count what is not of it, the background"
            )
        exit_ = self.reduction.exit
        numbers = self.backbone.numbers()  # refuses what is not supported
        check_cascade(self.heads.cascade or (), numbers.depth, exit_.head_blocks if exit_ else ())

    def to_dict(self) -> dict[str, Any]:
        """Plain nested mappings and lists, the inverse of `from_dict`."""
        return _plain(asdict(self))


def _choose(key: str, value: Any, known: Iterable[str]) -> None:
    known = list(known)
    if value not in known:
        raise ValueError(f"{key}={value!r}: {choices(value, known)}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
