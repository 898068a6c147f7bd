"""From what a user can live with to a reduction: a budget or a drop (`search`), or a guarantee.

`families` says which reductions a search knows, `split` which images it may see, `latency` what one
will cost in time, `front` draws what it found. Not here: how reductions are evaluated
(`stepseg.evaluation`).
"""
