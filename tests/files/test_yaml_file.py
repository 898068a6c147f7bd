"""Files of strangers end in one line, at once, and take no memory."""

import tracemalloc

import pytest

from stepseg.data.sets.folder import load_spec
from stepseg.files.yaml_file import read_yaml

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 8)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB + "classes: *a7", r"write out what \*a0 stands for.*\n.*line 2"),
        ("classes: &a [*a]", r"write out what \*a stands for"),
        ("base: &b {classes: [a]}\n<<: *b", r"write out what \*b"),
        ("[" * 100_000, "more than 16 levels"),
        ("{a: " * 5_000, "more than 16 levels"),
        ("- " * 5_000, "more than 16 levels"),
        ("".join(f"{n}: {n}\n" for n in range(2_000)), "needs the key 'classes'"),
        ("classes: [a]\nclasses: [b]", "a key stands there twice; they are .'classes'"),
        ("x: " + "9" * 5_000, "digits"),
        ("x: 2024-99-99", "month"),
        ("x: !!python/object/apply:os.system [id]", "could not determine a constructor"),
        ("x: !!python/name:os.system", "could not determine a constructor"),
        ("? [a, b]\n: c", "unhashable"),
        ("x: \udcff", "invalid|unacceptable|codec"),
        ("#" * 2_000_000, "larger than 1048576 bytes"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_what_says_more_than_it_holds_is_refused(text, reason, tmp_path):
    path = tmp_path / "classes.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=rf"(?s)classes\.yaml.*({reason})"):
            load_spec(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()


def test_what_people_write_is_read(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("classes: [road, sky]  # two\nlabel_map: {0: ignore}\nx: {y: [1, 2.5]}")
    expected = {"classes": ["road", "sky"], "label_map": {0: "ignore"}, "x": {"y": [1, 2.5]}}
    assert read_yaml(path) == expected
