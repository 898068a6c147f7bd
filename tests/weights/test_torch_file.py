"""Files of `torch.save` that claim more than they hold."""

import resource
import zipfile

import pytest
import torch

from stepseg.build import ModelConfig, build_segmenter
from stepseg.checkpoint import describe, read_checkpoint
from stepseg.data.specs import get_spec
from stepseg.weights.torch_file import OversizedError, check_sizes, read_torch_file

HUGE = 3 * 2**24
WIDE = {"num_classes": 11, "backbone": {"name": "vit_tiny", "depth": 1}, "heads": {"dim": HUGE}}


@pytest.fixture
def crafted(tmp_path):
    """A model of petabytes in a small file, every key and shape as its configuration has them."""
    config = ModelConfig.from_dict(WIDE)
    with torch.device("meta"):
        blank = build_segmenter(config, load_weights=False)
    state = {
        f"model.{key}": torch.zeros((), dtype=value.dtype).expand(value.shape)
        for key, value in blank.state_dict().items()
    }
    path = tmp_path / "crafted.ckpt"
    entry = describe(config, get_spec("camvid"))
    torch.save({"state_dict": state, "stepseg": entry, "global_step": 1}, path)
    assert path.stat().st_size < 200_000
    return path


def test_a_huge_claim_is_refused_by_name(crafted):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = (
        r"checkpoint '.*crafted\.ckpt' is refused: tensor state_dict/model\.\S+ of shape \(.*\) "
        r"claims \d+ bytes, it holds 4"
    )
    with pytest.raises(ValueError, match=message) as caught:
        read_checkpoint(crafted)
    assert "\n" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def saved(path, **tensors):
    torch.save({"state_dict": tensors, "more": [1, ("a", None)]}, path)
    return path


def test_honest_tensors_are_read(tmp_path):
    values = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "turned": values.t(),
        "part": values[1:],
        "scalar": torch.tensor(3),
        "none": values[:0],
    }
    read = read_torch_file(saved(tmp_path / "a.ckpt", **tensors))
    for key, value in tensors.items():
        assert torch.equal(read["state_dict"][key], value), key


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(3, 1).expand(3, 4), r"x of shape \(3, 4\) claims 48 bytes, it holds 12"),
        (torch.zeros(9).as_strided((5, 5), (1, 1)), "x .* claims 100 bytes, it holds 36"),
        (torch.empty(HUGE, device="meta"), "x is torch.strided on meta"),
        (torch.zeros(2, 2).to_sparse(), "x is torch.sparse_coo on cpu"),
    ],
    ids=["stride 0", "overlap", "meta", "sparse"],
)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_claims_of_one_tensor(tensor, message, tmp_path):
    with pytest.raises(OversizedError, match=f"tensor state_dict/{message}"):
        read_torch_file(saved(tmp_path / "a.ckpt", x=tensor))


def test_many_tensors_over_one_storage(tmp_path):
    values = torch.zeros(1000)
    path = saved(tmp_path / "a.ckpt", **{f"x{i}": values.view(-1) for i in range(100)})
    with pytest.raises(OversizedError, match=r"x\d+ and others share their values: they claim"):
        read_torch_file(path)


def test_compressed_records_are_not_unpacked(tmp_path):
    plain = saved(tmp_path / "plain.ckpt", x=torch.zeros(2**18))
    packed = tmp_path / "packed.ckpt"
    with (
        zipfile.ZipFile(plain) as source,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert packed.stat().st_size < 10_000
    with pytest.raises(OversizedError, match=r"records of 10\d+ bytes, the file has \d{4}$"):
        read_torch_file(packed)


def test_containers_that_hold_one_another_end():
    circle, value = [], torch.zeros(2)
    circle += [circle, value, {"again": circle, "same": value}]
    check_sizes(circle, 8)  # each tensor counts once
    with pytest.raises(OversizedError, match="tensor 2/same and others"):
        check_sizes(circle, 7)
