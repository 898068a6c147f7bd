"""`stepseg-tune`: a budget, a drop or a guarantee in, a reduction file out.

stepseg-tune ckpt_path=best.ckpt data=camvid gmacs=60
stepseg-tune ckpt_path=best.ckpt data=camvid latency_ms=20
stepseg-tune ckpt_path=best.ckpt data=camvid max_drop=0.5
stepseg-tune ckpt_path=best.ckpt reduction=algm gmacs=60
"""

from omegaconf import DictConfig

from stepseg.cli.hydra_command import hydra_command


@hydra_command("stepseg-tune", config_name="tune")
def main(cfg: DictConfig) -> float | None:
    """Tune; returns the mIoU of the choice, for sweepers."""
    # here, because --help needs nothing of it
    from stepseg.cli.tune.job import tune

    return tune(cfg)
