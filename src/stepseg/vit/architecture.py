"""The numbers of an encoder, as plain data: what a foundation ViT is, without its weights.

`stepseg.vit.timm_models` reads them from timm's models. Every field is a number or a word, so that
a checkpoint can carry them.
"""

from dataclasses import dataclass

ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "swiglu")
QKV_BIASES = ("all", "qv", "none")
PLACES = ("centred", "index")
WIDEST = 2**16
"""Channels; more are claimed only by files that want to fill the memory."""


@dataclass(frozen=True, slots=True)
class RopeNumbers:
    """Rotary positions: queries and keys turn by angles that are linear in where a row lies."""

    places: str = "centred"
    """``centred``: from -1 to 1 along either axis, a full turn per period (DINOv3). ``index``:
    counted in cells, one radian per cell at the highest frequency (EVA-02, PE)."""
    temperature: float = 100.0
    """How far the frequencies spread: the lowest is nearly this many times lower."""
    halves: bool = True
    """Which channels turn together: i and i + K / 2 of a head's K channels, or 2i and 2i + 1."""
    x_first: bool = False
    """Whether the first half of the angles follows x instead of y."""
    offset: float = 0.0
    """Added to the index of a cell; `index` only."""
    ref_grid: tuple[int, int] | None = None
    """Rows and columns that all grids are stretched to; None: not stretched. `index` only."""
    bfloat16_periods: bool = False
    """Round periods to bfloat16, as the authors' DINOv3 does; timm does not."""
    shift: float = 0.0
    """In training all places of a batch move along either axis by up to this much, at random."""
    jitter: float = 1.0
    """In training they spread along either axis by a random factor within [1 / jitter, jitter]."""
    rescale: float = 1.0
    """Likewise, along both axes by one factor."""

    def __post_init__(self) -> None:
        if self.places not in PLACES:
            raise ValueError(f"places of rotary positions are one of {PLACES}: {self.places!r}")
        if self.shift < 0 or self.jitter < 1 or self.rescale < 1:
            raise ValueError(
                f"rotary positions shift by 0 or more, and jitter and rescale by factors of 1 or "
                f"more, got {self.shift}, {self.jitter} and {self.rescale}"
            )


@dataclass(frozen=True, slots=True)
class Architecture:
    """What `stepseg.vit.staged.StagedViT` is built from; the defaults are a plain ViT's."""

    dim: int
    """Channels, D."""
    depth: int
    """Blocks."""
    num_heads: int
    """Attention heads."""
    hidden_dim: int
    """Channels in the middle of an MLP; of a gated one behind the gate."""
    patch_size: int = 16
    """Side of a patch in pixels."""
    patch_bias: bool = True
    """Whether the patch embedding adds a bias."""
    prefix: int = 0
    """Rows before the patches: a class token and registers, P."""
    pos_grid: int | None = 14
    """Side of the learned square grid of positions; None: none is learned."""
    pos_antialias: bool = False
    """Resize that grid with antialiasing, as timm does; SegViT, CTS and mmseg do not."""
    rope: RopeNumbers | None = None
    """Rotary positions; None: none."""
    norm_pre: bool = False
    """A LayerNorm before the first block."""
    eps: float = 1e-6
    """Of all LayerNorms."""
    qkv_bias: str = "all"
    """``all``, ``qv`` (keys have none), or ``none``."""
    layer_scale: bool = False
    """Scale every channel of both branches of a block."""
    activation: str = "gelu"
    """Of the MLP: ``gelu``, ``gelu_tanh``, ``quick_gelu``, or ``swiglu``, gated."""
    mlp_norm: bool = False
    """A LayerNorm in the middle of the MLP (EVA-02)."""
    final_norm: bool = False
    """Heads read features after a LayerNorm, which all depths share."""

    def __post_init__(self) -> None:
        for key in ("dim", "num_heads", "hidden_dim", "patch_size"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} of an encoder must be positive, got {getattr(self, key)}")
        if self.dim > WIDEST:
            raise ValueError(f"an encoder of {self.dim} channels is none: at most {WIDEST}")
        if self.dim % self.num_heads:
            raise ValueError(
                f"{self.dim} channels do not divide into {self.num_heads} attention heads"
            )
        if self.rope and self.head_dim % 4:
            raise ValueError(
                f"rotary positions turn pairs of channels along two axes: a head has "
                f"{self.head_dim} channels, no multiple of 4"
            )
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation={self.activation!r} is not one of {ACTIVATIONS}")
        if self.qkv_bias not in QKV_BIASES:
            raise ValueError(f"qkv_bias={self.qkv_bias!r} is not one of {QKV_BIASES}")

    @property
    def head_dim(self) -> int:
        """Channels of an attention head, K."""
        return self.dim // self.num_heads
