"""Delta debugging: what is found fails, and is as small as the parts that are tried let it be."""

from hypothesis import given
from hypothesis import strategies as st

from qexport.findings.ddmin import smallest


@given(count=st.integers(1, 60), data=st.data())
def test_the_items_that_are_needed_are_found_and_no_others(count: int, data: st.DataObject) -> None:
    needed = data.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=5))
    assert set(smallest(range(count), lambda part: needed <= set(part))) == needed


def test_a_hint_of_one_item_ends_the_search() -> None:
    tried: list[list[int]] = []

    def fails(part: list[int]) -> bool:
        tried.append(part)
        return 7 in part

    assert smallest(range(100), fails, [7]) == [7]
    assert tried == [[7]]


def test_what_never_fails_again_stays_whole() -> None:
    assert smallest(range(5), lambda part: False) == [0, 1, 2, 3, 4]
