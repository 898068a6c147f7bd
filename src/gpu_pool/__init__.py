"""Sweeps over several GPUs: a Hydra launcher that gives every job its own process and its own GPUs.

``hydra/launcher=gpu_pool`` is the queue of one machine, ``hydra/launcher=slurm`` hands the
jobs to a cluster; `guard` refuses sweeps that would hang. The Hydra plugins themselves lie in
`hydra_plugins.stepseg_launcher`, where Hydra looks for them.

Not here: what a job computes. The launcher knows a job by its command line and its `result.json`,
and imports nothing of stepseg.
"""
