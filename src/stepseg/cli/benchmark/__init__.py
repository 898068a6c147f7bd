"""`stepseg-benchmark`: operations, speed and memory of systems side by side, in turns.

stepseg-benchmark
stepseg-benchmark backbone=vit_large resolution=1024 num_classes=19 'batch_sizes=[1,8]' device=cuda
stepseg-benchmark ckpt_path=best.ckpt images=photos
stepseg-benchmark data=camvid 'reductions=[none,step]'
"""

from omegaconf import DictConfig

from stepseg.cli.hydra_command import hydra_command


@hydra_command("stepseg-benchmark", config_name="benchmark")
def main(cfg: DictConfig) -> None:
    """Benchmark."""
    # here, because --help needs nothing of it
    from stepseg.cli.benchmark.job import run

    run(cfg)
