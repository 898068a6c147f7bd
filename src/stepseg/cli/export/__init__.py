"""`stepseg-export`: a checkpoint as a file to share, or for another runtime.

stepseg-export ckpt_path=best.ckpt
stepseg-export ckpt_path=best.ckpt push_to=user/name
stepseg-export ckpt_path=best.ckpt format=onnx image_size=[360,480] reduction=none
"""

from omegaconf import DictConfig

from stepseg.cli.hydra_command import hydra_command


@hydra_command("stepseg-export", config_name="export")
def main(cfg: DictConfig) -> None:
    """Export."""
    # here, because --help needs nothing of it
    from stepseg.cli.export.job import export

    export(cfg)
