"""What a process of a small distributed run computes; the test starts it."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from stepseg.dcts.classifier import fit_corrections
from stepseg.heads.temperature import fit_temperatures
from stepseg.losses import LossWeights, distill_loss, head_loss, mean_over_ranks, policy_loss
from stepseg.merging.scorer import scorer_loss
from stepseg.metrics.joining import join_ranks

Batch = dict[str, Tensor]
WEIGHTS = LossWeights(pixel=1.0, class_weights=(0.3, 2.0, 1.0, 5.0, 0.1))
"""All terms."""


def gradients(batch: Batch) -> dict[str, Tensor]:
    """Gradients of all losses of a batch by the logits, and their sum as ``loss``."""
    names = ("masks", "classes", "windows2", "windows4", "votes")
    logits = {name: batch[name].clone().requires_grad_() for name in names}
    terms = head_loss(logits["masks"], logits["classes"], batch["labels"], WEIGHTS)
    windows = {2: logits["windows2"], 4: logits["windows4"]}
    targets = {2: batch["targets2"], 4: batch["targets4"]}
    for balance in (False, True):
        terms[f"policy {balance}"] = policy_loss(windows, targets, balance=balance)
    p_TC = logits["masks"].sigmoid().movedim(1, -1).flatten(0, -2)
    taught_T = p_TC[:, 0] > 0.5
    terms["distill"] = distill_loss(p_TC, p_TC.roll(1, 1), taught_T, 0.5)
    terms["scorers"] = scorer_loss(logits["votes"][None], batch["labels"])
    loss = torch.stack(list(terms.values())).sum()
    loss.backward()
    result = {"loss": loss.detach()}
    for name, tensor in logits.items():
        assert tensor.grad is not None
        result[name] = tensor.grad
    return result


def corrections(batch: Batch) -> Tensor:
    """And temperatures, fitted by the windows of both sizes.

    Every process has its share, or all of them.
    """
    sizes = ("2", "4")
    logits = [batch[f"windows{side}"].flatten() for side in sizes]
    targets = [batch[f"targets{side}"].flatten() for side in sizes]
    fits = (fit_corrections, fit_temperatures)
    return torch.cat([fit(logits, targets, lambda s: join_ranks("sums", s)) for fit in fits])


def run(rank: int, world_size: int, folder: str, batches: list[list[Batch]]) -> None:
    """Compute the gradients of this rank's share of every batch and save them."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    try:
        mean = mean_over_ranks(torch.tensor([1.0 + rank, 10.0 * rank]))
        results = [gradients(shares[rank]) for shares in batches]
        fitted = [corrections(shares[rank]) for shares in batches]
        nothing = {key: value[:0] for key, value in batches[0][1].items()}
        fitted.append(corrections(nothing if rank else batches[0][0]))  # an image for one of two
        saved = {"mean": mean, "results": results, "fitted": fitted}
        torch.save(saved, Path(folder) / f"rank{rank}.pt")
    finally:
        dist.destroy_process_group()
