"""`stepseg-eval`: evaluate a checkpoint under one or many reductions, model and data loaded once.

stepseg-eval ckpt_path=best.ckpt data=camvid
stepseg-eval ckpt_path=best.ckpt reduction=none
stepseg-eval ckpt_path=best.ckpt 'reductions=[none,cts,dcts,step@6,step@6+8]'
stepseg-eval ckpt_path=best.ckpt 'sweep.exit_thresholds=[0.8,0.9,0.95]'
stepseg-eval ckpt_path=best.ckpt 'sweep.merge_threshold_2=[0.4,0.6]' 'sweep.exit_blocks=[[6],[6,8]]'
"""

from omegaconf import DictConfig

from stepseg.cli.hydra_command import hydra_command


@hydra_command("stepseg-eval", config_name="eval")
def main(cfg: DictConfig) -> float | None:
    """Evaluate; returns the mIoU of the last point, for sweepers."""
    # here, because --help needs nothing of it
    from stepseg.cli.evaluate.job import evaluate

    return evaluate(cfg)
