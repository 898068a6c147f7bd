"""Models on the Hugging Face hub: ``hf://user/name`` in, commits out.

Needs huggingface_hub, of the extra ``stepseg[hub]``; imported where it is used. What it says when
something is missing (a repository, a token, the network) is turned into one kind of error.
"""

import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PREFIX = "hf://"
WEIGHTS = "model.safetensors"
_ADDRESS = re.compile(
    r"hf://(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+?))?(:(?P<file>[\w./-]+))?"
)


def is_hub_address(path: object) -> bool:
    """Whether a path means the hub."""
    return isinstance(path, str) and path.startswith(PREFIX)


def download(address: str) -> Path:
    """Fetch a checkpoint, or find it in the cache.

    Args:
        address: ``hf://user/name``, with ``@revision`` for a branch, tag or commit and ``:file``
            for another file than `WEIGHTS`.

    Raises:
        ValueError: says what is missing.

    """
    match = _ADDRESS.fullmatch(address)
    # A cache keeps revisions as files of their name: no name may climb out of its folder.
    if match is None or ".." in re.split(r"[/@:]", address):
        raise ValueError(
            f"{address!r} is no address on the hub: write hf://user/name, hf://user/name@revision "
            f"or hf://user/name:file.safetensors"
        )
    hub = _hub()
    return Path(
        _carefully(
            f"cannot fetch {address!r}",
            lambda: hub.hf_hub_download(
                match["repo"], match["file"] or WEIGHTS, revision=match["revision"]
            ),
        )
    )


def repository(address: str) -> tuple[str, str | None]:
    """The repository of an address that `download` took, and its revision."""
    match = _ADDRESS.fullmatch(address)
    assert match is not None
    return match["repo"], match["revision"]


def address_of(name: str | Path) -> str | Path:
    """What transformers calls a model by, ``user/name``, as an address; paths that exist stay."""
    is_name = re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)) is not None
    return f"{PREFIX}{name}" if is_name and not Path(name).exists() else name


def check_push(repo: str) -> None:
    """Refuse before the work what cannot be pushed after it.

    Raises:
        ValueError: the extra or a token is missing, or the name is none.

    """
    hub = _hub()
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise ValueError(f"push_to={repo!r}: write user/name")
    _carefully(f"push_to={repo!r}", lambda: hub.utils.validate_repo_id(repo))
    if hub.get_token() is None:
        raise ValueError(
            f"push_to={repo!r} needs a token with write access: run `hf auth login`, or set "
            f"HF_TOKEN"
        )


def push(repo: str, files: Mapping[str, Path], *, message: str, private: bool = True) -> str:
    """Put files into a model repository by one commit; makes the repository if need be.

    Args:
        repo: ``user/name``.
        files: by their path in the repository.
        private: of a new repository; one that exists stays as it is.

    Returns:
        Its address for `stepseg.checkpoint.read_checkpoint`.

    """
    check_push(repo)
    hub = _hub()
    api = hub.HfApi()
    operations = [
        hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path))
        for name, path in files.items()
    ]

    def commit() -> None:
        api.create_repo(repo, repo_type="model", private=private, exist_ok=True)
        api.create_commit(repo, operations, commit_message=message, repo_type="model")

    _carefully(f"cannot push to {repo!r}", commit)
    return f"{PREFIX}{repo}"


def _hub() -> Any:
    if find_spec("huggingface_hub") is None:
        raise ValueError("the hub needs huggingface_hub: pip install 'stepseg[hub]'")
    import huggingface_hub
    import huggingface_hub.errors
    import huggingface_hub.utils

    return huggingface_hub


def _carefully(problem: str, call: Callable[[], Any]) -> Any:
    """Run a call to the hub; its many kinds of errors become one that says what to do."""
    errors = _hub().errors
    remedies: list[tuple[type[BaseException], str]] = [
        (errors.GatedRepoError, "access to it must be granted on its page first"),
        (
            errors.RepositoryNotFoundError,
            "there is no such repository, or it is private: check the name, or log in with "
            "`hf auth login`",
        ),
        (errors.RevisionNotFoundError, "there is no such revision"),
        (errors.LocalEntryNotFoundError, "it is not in the cache, and the network cannot be used"),
        (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE forbids the network"),
        (errors.EntryNotFoundError, f"the repository has no such file; expected is {WEIGHTS}"),
        (errors.HFValidationError, "the name is not allowed"),
        (errors.LocalTokenNotFoundError, "there is no token: run `hf auth login`, or set HF_TOKEN"),
        (errors.HfHubHTTPError, "the hub refused; is the token allowed to do that?"),
    ]
    try:
        return call()
    except Exception as error:
        remedy = next(
            (text for kind, text in remedies if isinstance(error, kind)), "is the network there?"
        )
        first = (str(error).strip().splitlines() or [""])[0]
        raise ValueError(f"{problem}: {remedy} ({type(error).__name__}: {first})") from error
