"""What depends on the length of a training: a short one shall run, whatever its recipe is for."""

from typing import Any

WARMUPS = ("warmup_steps", "encoder_warmup_steps")


def fit_to_length(values: dict[str, Any], *copies: dict[str, Any]) -> list[str]:
    """Turn shares into numbers of batches, and shorten what is longer than the training; in place.

    Args:
        values: with `trainer` and `optim`, checked.
        copies: of the same configuration, which change alike.

    Returns:
        A line for everything that is not as it was asked for.

    Raises:
        ValueError: a validation within a step.

    """
    trainer, optim = values["trainer"], values["optim"]
    fast = int(trainer.get("fast_dev_run") or 0)  # so many batches, and nothing is saved
    steps = fast or trainer["max_steps"]
    every = trainer["accumulate_grad_batches"]
    batches = steps * every
    length = f"trainer.fast_dev_run={fast}" if fast else f"trainer.max_steps={steps}"
    interval, warmups = trainer["val_check_interval"], {name: optim[name] for name in WARMUPS}
    lines = []
    if isinstance(interval, float):
        interval = every * max(1, round(interval * batches / every))
    elif interval > batches:
        lines.append(
            f"trainer.val_check_interval={interval} is longer than the training ({length}): one "
            f"validation, at its end"
        )
        interval = batches
    elif interval % every:
        raise ValueError(
            f"trainer.val_check_interval={interval} lies inside a step of "
            f"trainer.accumulate_grad_batches={every} batches, where nothing can be resumed: give "
            f"a multiple, such as {every * -(-interval // every)}"
        )
    if rest := batches % interval:
        lines.append(
            f"the last {rest} of {batches} batches ({length}) come after the last validation: "
            f"trainer.val_check_interval={interval} does not divide them"
        )
    whole = all(isinstance(warmup, int) for warmup in warmups.values())
    if whole and (total := sum(warmups.values())) >= steps:
        shorter = {name: warmup * (steps // 10) // total for name, warmup in warmups.items()}
        lines += [
            f"optim.{name}={warmup} is too long for the training ({length}): shortened to "
            f"{shorter[name]}"
            for name, warmup in warmups.items()
            if warmup
        ]
        warmups = shorter
    for config in (values, *copies):
        config["trainer"]["val_check_interval"] = interval
        config["trainer"]["log_every_n_steps"] = min(trainer["log_every_n_steps"], steps)
        config["optim"].update(warmups)
    return lines
