import pytest

from stepseg.data.palettes import distinct_colours
from stepseg.data.parallel import map_items


def test_one_process_works_in_this_one():
    seen = []
    assert list(map_items(lambda x: seen.append(x) or x * x, [1, 2, 3], processes=1)) == [1, 4, 9]
    assert seen == [1, 2, 3]
    assert list(map_items(abs, [], processes=4)) == []


def test_order_is_kept_over_processes():
    assert list(map_items(abs, list(range(-40, 0)), processes=2, chunk=3)) == list(range(40, 0, -1))


def test_exceptions_arrive():
    with pytest.raises(ZeroDivisionError):
        list(map_items((1).__truediv__, [1, 0], processes=1))
    with pytest.raises(TypeError):
        list(map_items(abs, [1, "x"], processes=2, chunk=1))


def test_colours_differ_and_stay_the_same():
    names = [f"class {i}" for i in range(200)]
    colours = distinct_colours(names)
    assert len(set(colours)) == 200
    assert distinct_colours(names[:50]) == colours[:50]
    assert (0, 0, 0) not in colours
    assert distinct_colours(["a", "sky", "b"])[1] == (95, 165, 230)
    assert len(set(distinct_colours(["sky", "sky-other", "house", "road"]))) == 4
