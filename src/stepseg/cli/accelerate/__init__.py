"""`stepseg-accelerate`: a finished model gets a policy, from unlabelled images alone.

stepseg-accelerate model=tue-mps/ade20k_semantic_eomt_large_512 data=photos
stepseg-accelerate model=outputs/train/2026-01-01_12-00-00 data=photos lose=0.5
"""

from omegaconf import DictConfig

from stepseg.cli.hydra_command import hydra_command


@hydra_command("stepseg-accelerate", config_name="accelerate", renamed={"data": "images"})
def main(cfg: DictConfig) -> None:
    """Accelerate."""
    # here, because --help needs nothing of it
    from stepseg.cli.accelerate.job import accelerate

    accelerate(cfg)
