"""Every door for weights, attacked with the same files."""

import struct
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from stepseg.build import build_policy
from stepseg.checkpoint import read_checkpoint
from stepseg.lit.resume import read_point
from stepseg.model_config import PolicyConfig
from stepseg.vit.weights import load_timm_checkpoint
from stepseg.weights.read import check_finite, read_weights
from toys import new_vit


def timm(path):
    load_timm_checkpoint(new_vit(dim=32, depth=1, num_heads=2, pos_grid=7), path)


def policy(path):
    build_policy(PolicyConfig("lcnet_050", windows=(2, 4), checkpoint=str(path)))


DOORS = {"ckpt_path": read_checkpoint, "resume": read_point, "backbone": timm, "policy": policy}


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def saved(path, **weights):
    torch.save({"state_dict": weights}, path)


def compressed(path):
    saved(path.with_suffix(".plain"), x=torch.zeros(2**18))
    with (
        zipfile.ZipFile(path.with_suffix(".plain")) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))


def pickled(path, content, compression=zipfile.ZIP_STORED):
    """A file of `torch.save` with another pickle in it."""
    saved(path.with_suffix(".plain"), x=torch.zeros(2**12))
    with (
        zipfile.ZipFile(path.with_suffix(".plain")) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target,
    ):
        for name in source.namelist():
            is_pickle = name.endswith("data.pkl")
            target.writestr(
                name,
                content if is_pickle else source.read(name),
                compression if is_pickle else zipfile.ZIP_STORED,
            )


GIGABYTES = b"\x80\x02cbuiltins\nbytearray\n\x8a\x08" + struct.pack("<q", 2**34) + b"\x85R."


def header(path):
    path.write_bytes(struct.pack("<Q", 2**40) + b"{" + bytes(100))


FILES = {
    "nothing": (lambda p: p.write_bytes(b""), "cannot be read safely"),
    "a text": (lambda p: p.write_bytes(b"not weights at all"), "cannot be read safely"),
    "code": (lambda p: saved(p, x=Trap(p.parent / "trapped")), "cannot be read safely"),
    "terabytes": (
        lambda p: saved(p, x=torch.zeros(()).expand(2**40)),
        "is refused: tensor state_dict/x of shape .* claims 4398046511104 bytes, it holds 4",
    ),
    "compressed": (compressed, "is refused: it claims records of"),
    "memory out of a number": (lambda p: pickled(p, GIGABYTES), "is refused: it holds a bytearray"),
    "the same, compressed": (
        lambda p: pickled(p, GIGABYTES, zipfile.ZIP_DEFLATED),
        "is refused: its records are compressed",
    ),
    "a long header": (header, "is damaged: it ends within its header"),
    "a list": (lambda p: torch.save([1, 2], p), "holds a list, not a state dict"),
    "a string": (
        lambda p: saved(p, pos_embed="x" * 100),
        r"holds no state dict \(tensors by name\): 'pos_embed' is a str",
    ),
    "a number for a name": (lambda p: torch.save({3: torch.ones(1)}, p), "holds no state dict"),
    "nan": (lambda p: saved(p, a=torch.ones(3), b=torch.full((3,), float("nan"))), "first in b"),
    "infinity": (lambda p: saved(p, b=torch.tensor([1.0, float("-inf")]).half()), "first in b"),
    "safetensors with nan": (
        lambda p: save_file({"b": torch.full((3,), float("nan"), dtype=torch.bfloat16)}, p),
        "first in b",
    ),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", FILES)
def test_every_door_refuses_every_file(name, door, tmp_path):
    make, message = FILES[name]
    path = tmp_path / "file.pth"
    make(path)
    if door == "resume" and name in ("safetensors with nan", "a long header"):
        message = "holds weights alone"
    with pytest.raises(ValueError, match=message) as caught:
        DOORS[door](path)
    assert "file.pth" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64]
)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_one_number_of_any_type_is_found(dtype, bad):
    values = torch.randn(1000).to(dtype)
    check_finite({"a": values, "count": torch.tensor(3), "none": values[:0]}, "file")
    values[617] = bad
    with pytest.raises(ValueError, match=r"^file holds weights that are not finite .*in a:"):
        check_finite({"a": values}, "file")


def test_the_largest_numbers_are_finite():
    largest = torch.finfo(torch.float32).max
    check_finite({"a": torch.tensor([largest, -largest])}, "file")
    check_finite({"a": torch.tensor([448.0, -448.0]).to(torch.float8_e4m3fn)}, "file")


def test_a_state_dict_is_found_in_its_wrapper(tmp_path):
    for wrapped in ({"model": {"a": torch.ones(1)}, "epoch": 3}, {"a": torch.ones(1)}):
        torch.save(wrapped, tmp_path / "a.pth")
        file = read_weights(tmp_path / "a.pth", "a.pth")
        assert list(file.state) == ["a"]
        assert file.entry is None
