"""Secrets by key, by place and by the environment; everything else as it was."""

from pathlib import Path

import pytest
import yaml

from stepseg.cli.paths import config_dir
from stepseg.masking import is_secret, masked, masked_text

TEXTS = {
    "+logger.wandb.api_key=X1": "+logger.wandb.api_key=***",
    "++a.token=1,2,3": "++a.token=***",
    "a.secret={b: c, d: e}": "a.secret=***",
    "a.password='x y=z'": "a.password=***",
    "+a={api_key: X1, mode: offline}": "+a={api_key: ***, mode: offline}",
    "+a={'apiKey':'X 1','mode':b}": "+a={'apiKey':***,'mode':b}",
    "url=https://me:X1@host/x": "url=https://***@host/x",
    "a.token=${oc.env:HF_TOKEN,X1}": "a.token=***",
    "- +a.access-key=X1\n- seed=3": "- +a.access-key=***\n- seed=3",
    "notes=typed-by-the-shell": "notes=***",
}
KEPT = [
    "a.token=${oc.env:HF_TOKEN}", "notes=${oc.env:HF_TOKEN}", "tokens=[1,2]", "a.token=null",
    "reduction.exit.tokens=[9,4]", "keep_per_class=3", "url=https://host:80/a@b",
    "class_token=true", "data.root=/tokens/secret", "policy.windows=[2,4]",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "typed-by-the-shell")
    monkeypatch.setenv("SHORT_TOKEN", "data")


@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_masked(text):
    assert masked_text(text) == TEXTS[text]
    assert masked_text(TEXTS[text]) == TEXTS[text]


@pytest.mark.parametrize("text", KEPT)
def test_what_is_no_secret_stays(text):
    assert masked_text(text) == text


def test_nested_values_are_masked():
    values = {
        "a": {"apiKey": "x", "token": {"deep": ["y", 3, None, True]}, "tokens": [1, 2]},
        "list": [{"password": 1234}, "typed-by-the-shell!"],
        "secret": "${oc.env:X}",
    }
    assert masked(values) == {
        "a": {"apiKey": "***", "token": {"deep": ["***", "***", None, True]}, "tokens": [1, 2]},
        "list": [{"password": "***"}, "***!"],
        "secret": "${oc.env:X}",
    }


def test_no_key_of_ours_looks_like_a_secret():
    """A configuration without secrets is recorded as it is."""

    def keys(values):
        for key, value in values.items() if isinstance(values, dict) else ():
            yield str(key)
            yield from keys(value)

    files = list(Path(config_dir()).rglob("*.yaml"))
    assert len(files) > 40
    for file in files:
        found = keys(yaml.safe_load(file.read_text()))
        assert [key for key in found if is_secret(key)] == []
