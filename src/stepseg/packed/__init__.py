"""Packed tokens: images of different token counts in one tensor, without padding.

Merging (STEP, arXiv 2509.14165, Sec. 3.2.1) leaves every image with its own number of tokens, and
every exit head (Sec. 3.2.2) takes some of them away. Both are index work on one flat ``[T, D]``
tensor. What the tokens mean lives elsewhere: `stepseg.dcts` builds the layout, `stepseg.vit` and
`stepseg.heads` compute on the values.

Some encoders carry rows that are no patches: a class token, registers, on the way queries. They
come first among the rows of every image, neither merge nor leave, and only the encoder sees them;
everybody else works on `PackedTokens.patches`. Inside the blocks tokens may become one as well
(`PackedTokens.merge`).
"""

from stepseg.packed.layout import TokenLayout
from stepseg.packed.segments import Segments, upload
from stepseg.packed.tokens import PackedTokens, Passed

__all__ = ["PackedTokens", "Passed", "Segments", "TokenLayout", "upload"]
