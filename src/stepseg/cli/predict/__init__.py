"""`stepseg-predict`: label maps and pictures for images, folders, patterns and videos.

stepseg-predict ckpt_path=best.ckpt input=photos output=out
stepseg-predict ckpt_path=best.ckpt input=photos output=out reduction=none
stepseg-predict ckpt_path=best.ckpt input=photos output=out reduction.exit.threshold=0.95
"""

from omegaconf import DictConfig

from stepseg.cli.hydra_command import hydra_command


@hydra_command("stepseg-predict", config_name="predict")
def main(cfg: DictConfig) -> None:
    """Predict."""
    # here, because --help needs nothing of it
    from stepseg.cli.predict.job import predict

    predict(cfg)
