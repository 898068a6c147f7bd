"""What is said about a word that is not known."""

import pytest

from stepseg.plain_types import choices, flat, nearest


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("stepp", "; did you mean 'step'?"),
        ("x", "; known: none, step"),
        (None, "; did you mean 'none'?"),
    ],
)
def test_the_nearest_word_or_all_of_them(word, said):
    assert nearest(word, iter(["none", "step"])) == said
    assert nearest(word, []) == ""


def test_choices_name_all_and_the_nearest_first():
    assert choices("stepp", iter(["none", "step"])) == (
        "did you mean 'step'? choose one of none, step"
    )
    assert choices(3, ["none", "step"]) == "choose one of none, step"


def test_of_many_names_only_the_first_level_is_listed():
    names = ["data", "trainer", *(f"data.key_{i}" for i in range(60))]
    assert nearest("xyz", names) == "; known: data, trainer"
    assert nearest("data.key_60", names).startswith("; did you mean 'data.key_")


def test_nested_values_as_one_mapping():
    values = {"a": 1, "b": {"c": [2], "d": {"e": None}}, "f": {}}
    assert flat(values) == {"a": 1, "b.c": [2], "b.d.e": None}
    assert list(flat(values, "/")) == ["a", "b/c", "b/d/e"]
