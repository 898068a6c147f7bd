"""Data sets, label maps, augmentation, generated scenes. Runs without lightning, hydra or wandb."""
