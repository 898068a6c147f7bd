"""`stepseg-train`: train a segmenter with its policy, evaluate its best weights, compare systems.

Without arguments: the main job on generated scenes, a few minutes on two CPU cores.
"""

from omegaconf import DictConfig

from stepseg.cli.hydra_command import hydra_command


@hydra_command("stepseg-train", config_name="train")
def main(cfg: DictConfig) -> float | None:
    """Train; returns the best value of the monitored figure, for sweepers."""
    # here, because --help needs nothing of it
    from stepseg.cli.train.job import train

    return train(cfg)
