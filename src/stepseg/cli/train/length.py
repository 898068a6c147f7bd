"""What depends on the length of a training: a short one shall run, whatever its recipe is for."""

from omegaconf import DictConfig


def fit_to_length(cfg: DictConfig) -> list[str]:
    """Turn shares into numbers of batches, and shorten what is longer than the training; in place.

    Args:
        cfg: with `trainer` and `optim`, checked.

    Returns:
        A line for everything that is not as it was asked for.

    """
    trainer, optim = cfg.trainer, cfg.optim
    fast = int(trainer.get("fast_dev_run") or 0)  # so many batches, and nothing is saved
    steps = fast or trainer.max_steps
    batches = steps * trainer.accumulate_grad_batches
    length = f"trainer.fast_dev_run={fast}" if fast else f"trainer.max_steps={trainer.max_steps}"
    lines = []
    if isinstance(trainer.val_check_interval, float):
        trainer.val_check_interval = max(1, round(trainer.val_check_interval * batches))
    elif trainer.val_check_interval > batches:
        lines.append(
            f"trainer.val_check_interval={trainer.val_check_interval} is longer than the training "
            f"({length}): one validation, at its end"
        )
        trainer.val_check_interval = batches
    if isinstance(optim.warmup_steps, int) and optim.warmup_steps >= steps:
        shorter = steps // 10
        lines.append(
            f"optim.warmup_steps={optim.warmup_steps} is longer than the training ({length}): "
            f"shortened to {shorter}"
        )
        optim.warmup_steps = shorter
    trainer.log_every_n_steps = min(trainer.log_every_n_steps, steps)
    return lines
