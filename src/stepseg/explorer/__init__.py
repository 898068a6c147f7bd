"""An interactive page for one model and a few images: how thresholds move tokens and operations.

`write_explorer` runs the model at a grid of settings and writes one HTML file that needs nothing
else. `plan` says which runs, `recording` carries them out, `encoding` packs what they gave, `page`
puts it together with the files of ``static/``, which merge, let tokens leave and count in the
browser as `stepseg.dcts.merge`, `stepseg.heads.exit` and `stepseg.macs` do here.
"""

from stepseg.explorer.page import write_explorer

__all__ = ["write_explorer"]
