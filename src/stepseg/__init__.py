"""stepseg: fast semantic segmentation with plain Vision Transformers (STEP, arXiv 2509.14165).

`stepseg.build` makes the models, `stepseg.packed` holds the tokens, `stepseg.cli` the commands.
Importing this package alone imports none of them, so that ``import stepseg`` stays cheap.
"""

__version__ = "0.1.0"
