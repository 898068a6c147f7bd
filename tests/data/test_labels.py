import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepseg.data.labels import LabelError, LabelMap, format_ids


def test_apply_maps_every_listed_id():
    label_map = LabelMap.from_pairs({0: 255, 7: 0, 8: 1})
    ids = np.array([[0, 7], [8, 7]], dtype=np.uint8)
    assert label_map.apply(ids, "x.png").tolist() == [[255, 0], [1, 0]]
    assert label_map.apply(ids, "x.png").dtype == np.uint8


def test_one_based_shifts_down_and_ignores_zero():
    ids = np.array([[0, 1, 150]], dtype=np.uint8)
    assert LabelMap.one_based(150).apply(ids, "x.png").tolist() == [[255, 0, 149]]


def test_unknown_id_is_refused_with_file_and_id():
    ids = np.array([[1, 200]], dtype=np.uint8)
    with pytest.raises(LabelError, match=r"ADE_1\.png.*label id 200.*0-150"):
        LabelMap.one_based(150).apply(ids, "ADE_1.png")


@pytest.mark.parametrize("wrong", [-1, 256, 70000])
def test_ids_outside_the_table_are_refused(wrong):
    ids = np.array([[0, wrong]], dtype=np.int32)
    with pytest.raises(LabelError, match=f"label id {wrong} "):
        LabelMap.identity(3).apply(ids, "x.png")


def test_ids_above_255_make_a_large_table():
    label_map = LabelMap.from_pairs({1000: 3, 0: 255})
    assert label_map.table.shape == (65536,)
    ids = np.array([[1000, 0]], dtype=np.uint16)
    assert label_map.apply(ids, "x.mat").tolist() == [[3, 255]]


def test_identity_ignores_the_given_ids_only():
    label_map = LabelMap.identity(2, ignored=(11,))
    assert label_map.apply(np.array([[0, 1, 11]]), "x").tolist() == [[0, 1, 255]]
    assert label_map.allowed_ids == [0, 1, 11]
    assert label_map.unknown_ids(np.array([[255, 2, 0, -3]])) == [-3, 2, 255]


def test_tables_of_another_form_are_refused():
    with pytest.raises(ValueError, match="256 or 65536"):
        LabelMap(np.zeros(10, dtype=np.int16))
    with pytest.raises(ValueError, match=r"0\.\.255"):
        LabelMap(np.full(256, 300, dtype=np.int16))
    with pytest.raises(ValueError, match=r"0\.\.65535"):
        LabelMap.from_pairs({-1: 0})


def test_tables_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        LabelMap.identity(2).table[0] = 1


@pytest.mark.parametrize(
    ("ids", "text"), [([], "none"), ([3], "3"), ([0, 1, 2, 255], "0-2, 255"), ([1, 3], "1, 3")]
)
def test_format_ids(ids, text):
    assert format_ids(ids) == text


@given(
    pairs=st.dictionaries(
        st.integers(0, 400) | st.integers(0, 65535), st.integers(0, 255), min_size=1, max_size=20
    ),
    ids=st.lists(st.integers(-3, 70000), min_size=1, max_size=12),
    dtype=st.sampled_from([np.int32, np.int64]),
)
def test_every_id_is_mapped_as_listed_or_refused(pairs, ids, dtype):
    label_map = LabelMap.from_pairs(pairs)
    assert label_map.allowed_ids == sorted(pairs)
    listed = np.array([list(pairs)], dtype)
    assert label_map.apply(listed, "x").tolist() == [list(pairs.values())]
    array = np.array([ids], dtype)
    unknown = sorted(set(ids) - set(pairs))
    assert label_map.unknown_ids(array) == unknown
    if not unknown:
        assert label_map.apply(array, "x").tolist() == [[pairs[i] for i in ids]]
        return
    with pytest.raises(LabelError, match=rf"^x: label id {unknown[0]} "):
        label_map.apply(array, "x")


@given(ids=st.sets(st.integers(0, 300), max_size=20))
def test_formatted_ids_can_be_read_back(ids):
    runs = [] if not ids else format_ids(sorted(ids)).split(", ")
    ends = [(int(a), int(b or a)) for a, _, b in (run.partition("-") for run in runs)]
    assert [i for a, b in ends for i in range(a, b + 1)] == sorted(ids)
