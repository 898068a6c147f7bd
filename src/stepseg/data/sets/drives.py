"""Generated drives (`stepseg.data.scenes.drive`): the classes and the palette of CamVid."""

from __future__ import annotations

from dataclasses import replace

from stepseg.data.sets import camvid, synthetic

SPEC = replace(camvid.SPEC, name="drives", layout=synthetic.SPEC.layout)
