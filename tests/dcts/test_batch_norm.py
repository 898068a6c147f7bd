"""BatchNorm over processes beside PyTorch's over one."""

import pytest
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor, nn

from reference.batch_norm import batches, in_one_process, network, run, state
from stepseg.dcts.batch_norm import SharedBatchNorm, share_batch_norm


def test_two_processes_with_images_of_two_sizes_equal_one(tmp_path):
    """Outputs (by their gradients), gradients and running statistics."""
    mp.start_processes(run, args=(str(tmp_path),), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    model = network()
    images, upstream = batches()
    outputs = in_one_process(model, images)
    sum((x * w).sum() for x, w in zip(outputs, upstream, strict=True)).backward()  # type: ignore[union-attr]
    expected = state(model)
    assert first.keys() == expected.keys()
    for name, value in expected.items():
        if name.startswith("d "):
            torch.testing.assert_close(first[name] + second[name], value, rtol=1e-4, atol=1e-3)
        elif name.endswith("num_batches_tracked"):
            assert first[name] == second[name] == 1
        else:
            for own in (first, second):
                torch.testing.assert_close(own[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_one_process_has_pytorchs_own(training):
    model, shared = network().train(training), network().train(training)
    share_batch_norm(shared)
    assert isinstance(shared[1], SharedBatchNorm)
    images = batches()[0][0]
    expected = F.relu(F.batch_norm(model[0](images), *_arguments(model[1]), training, 0.3))
    assert torch.equal(shared[:2](images), expected)
    assert shared.state_dict().keys() == model.state_dict().keys()


def _arguments(norm: nn.Module) -> tuple[Tensor, ...]:
    names = ("running_mean", "running_var", "weight", "bias")
    return tuple(getattr(norm, name) for name in names)
