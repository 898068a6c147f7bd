"""The launchers of stepseg as Hydra plugins."""
