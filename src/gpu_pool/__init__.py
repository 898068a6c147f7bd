"""Sweeps over several GPUs: Hydra launchers that give every job its own process and its own GPUs.

``hydra/launcher=gpu_pool`` is the queue of one machine, ``ray`` the same over a Ray cluster:
`sweep` and `pool` know the jobs, an executor (`local`, `ray_executor`) where they run. ``slurm``
hands jobs to a batch system; `guard` refuses sweeps that would hang. The Hydra plugins themselves
lie in `hydra_plugins.stepseg_launcher`, where Hydra looks for them.

Not here: what a job computes. The launcher knows a job by its command line and its `result.json`,
and imports nothing of stepseg.
"""
