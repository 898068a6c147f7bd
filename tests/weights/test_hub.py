"""The hub without a network: what is asked of it, and what people are told when it says no."""

from pathlib import Path

import httpx
import huggingface_hub
import pytest
import torch
from huggingface_hub import errors

from stepseg.build import ModelConfig, build_segmenter
from stepseg.checkpoint import Checkpoint, read_checkpoint, write_inference_checkpoint
from stepseg.weights import hub
from stepseg.weights.hub import check_push, download, is_hub_address, push


@pytest.fixture
def cached(tmp_path):
    """A shared checkpoint, as if fetched before."""
    config = ModelConfig.from_dict(
        {
            "num_classes": 2,
            "backbone": {"name": "vit_tiny", "depth": 1},
            "policy": None,
            "heads": {"num_layers": 1},
        }
    )
    torch.manual_seed(0)
    data = {"name": "pond", "classes": ["water", "duck"], "palette": [[0, 0, 9], [9, 9, 0]]}
    state = build_segmenter(config).state_dict()
    path = tmp_path / "model.safetensors"
    write_inference_checkpoint(path, Checkpoint(path, config, data, state, step=3))
    return path


@pytest.mark.parametrize(
    ("address", "asked"),
    [
        ("hf://ada/pond", ("ada/pond", "model.safetensors", None)),
        ("hf://ada/pond@v1.2", ("ada/pond", "model.safetensors", "v1.2")),
        ("hf://a-d.a/pond_2@refs/pr/3", ("a-d.a/pond_2", "model.safetensors", "refs/pr/3")),
        ("hf://ada/pond:sub/other.safetensors", ("ada/pond", "sub/other.safetensors", None)),
        ("hf://ada/pond@main:best.ckpt", ("ada/pond", "best.ckpt", "main")),
    ],
)
def test_a_checkpoint_by_its_address(address, asked, cached, monkeypatch):
    calls = []

    def fetch(repo, filename, revision=None):
        calls.append((repo, filename, revision))
        return str(cached)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    checkpoint = read_checkpoint(address)
    assert calls == [asked]
    assert checkpoint.data["classes"] == ["water", "duck"]
    checkpoint.build()


@pytest.mark.parametrize(
    "address",
    [
        "hf://", "hf://ada", "hf://ada/pond/x", "hf://ada/pond@", "hf://../pond",
        "hf://ada/pond@../../x", "hf://ada/pond:../x",
    ],
)  # fmt: skip
def test_addresses_that_are_none(address):
    with pytest.raises(ValueError, match="is no address on the hub: write hf://user/name"):
        read_checkpoint(address)


def test_other_paths_are_files():
    assert not is_hub_address("ada/pond")
    assert not is_hub_address(Path("hf:/ada/pond"))
    with pytest.raises(ValueError, match="'ada/pond' does not exist"):
        read_checkpoint("ada/pond")


def _response(status):
    return httpx.Response(status, request=httpx.Request("GET", "https://hub.invalid"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.RepositoryNotFoundError("404", response=_response(404)), "no such repository, or"),
        (errors.GatedRepoError("403", response=_response(403)), "access to it must be granted"),
        (errors.RevisionNotFoundError("404", response=_response(404)), "no such revision"),
        (errors.EntryNotFoundError("404"), "no such file; expected is model.safetensors"),
        (errors.LocalEntryNotFoundError("offline"), "not in the cache, and the network cannot"),
        (errors.OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE forbids"),
        (errors.HfHubHTTPError("500", response=_response(500)), "the hub refused"),
        (httpx.ConnectError("no route"), "is the network there.*ConnectError: no route"),
        (ConnectionError("refused\nlong story"), r"is the network there.*refused\)$"),
    ],
)
def test_what_goes_wrong_is_told_in_one_message(error, message, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(ValueError, match=f"cannot fetch 'hf://ada/pond': .*{message}"):
        download("hf://ada/pond")


class Api:
    """Remembers what is asked of `HfApi`."""

    calls: list[tuple] = []  # noqa: RUF012, one list for all

    def create_repo(self, repo_id, **options):
        self.calls.append(("create_repo", repo_id, options))

    def create_commit(self, repo_id, operations, **options):
        files = {op.path_in_repo: Path(op.path_or_fileobj).read_bytes() for op in operations}
        self.calls.append(("create_commit", repo_id, files, options))


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr(Api, "calls", [])
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "a token")
    return Api


def test_a_push_is_one_commit(api, tmp_path):
    (tmp_path / "card.md").write_text("# pond")
    (tmp_path / "w").write_bytes(b"weights")
    files = {"README.md": tmp_path / "card.md", "model.safetensors": tmp_path / "w"}
    assert push("ada/pond", files, message="mIoU 12.3", private=False) == "hf://ada/pond"
    created, committed = api.calls
    assert created == (
        "create_repo", "ada/pond", {"repo_type": "model", "private": False, "exist_ok": True}
    )  # fmt: skip
    content = {"README.md": b"# pond", "model.safetensors": b"weights"}
    options = {"commit_message": "mIoU 12.3", "repo_type": "model"}
    assert committed == ("create_commit", "ada/pond", content, options)


def test_a_push_is_refused_before_the_work(api, monkeypatch):
    for name in ("pond", "ada/pond/x", "hf://ada/pond", "ada/pond--x"):
        with pytest.raises(ValueError, match="push_to="):
            check_push(name)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(ValueError, match="needs a token with write access: run `hf auth login`"):
        check_push("ada/pond")
    assert api.calls == []


def test_a_refused_push_is_told(api, monkeypatch):
    def refuse(self, *args, **options):
        raise errors.HfHubHTTPError("403 Forbidden", response=_response(403))

    monkeypatch.setattr(api, "create_repo", refuse)
    with pytest.raises(ValueError, match="cannot push to 'ada/pond': the hub refused"):
        push("ada/pond", {}, message="")


def test_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    for call in (lambda: download("hf://ada/pond"), lambda: check_push("ada/pond")):
        with pytest.raises(ValueError, match=r"huggingface_hub: pip install 'stepseg\[hub\]'"):
            call()
