"""Many reductions of one model: by name or by lists, at once, kept while they last, as a table.

`systems` and `points` say which reductions there are, `segment_all` carries them out together,
`store` keeps finished rows and `partial_counts` what is half done, `table` shows them.
"""

from stepseg.grid.shared import segment_all

__all__ = ["segment_all"]
