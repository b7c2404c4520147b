"""Pages hold every item once, whatever is added between them, and their tokens cannot be reused elsewhere."""

from __future__ import annotations

import pytest

from aegis_common.errors import InvalidPageToken
from aegis_common.paging import page

NAMES = [f"n{i:02}" for i in range(25)]


def _page(items: list[str], size: int, token: str, query: str = "q") -> tuple[list[str], str]:
    return page(items, key=str, size=size, token=token, query=query)


def test_pages_together_are_the_list() -> None:
    seen: list[str] = []
    token = ""
    while True:
        found, token = _page(NAMES, 10, token)
        seen += found
        if not token:
            break

    assert NAMES == seen


def test_an_item_added_before_the_cursor_repeats_nothing() -> None:
    first, token = _page(NAMES, 10, "")
    second, _ = _page(["m", *NAMES], 10, token)

    assert NAMES[:10] == first
    assert NAMES[10:20] == second


def test_the_last_page_has_no_token_even_when_it_is_full() -> None:
    assert ("", 25) == (_page(NAMES, 25, "")[1], len(_page(NAMES, 25, "")[0]))


@pytest.mark.parametrize("token", ["x", "!!!", "bnVsbA", "WzEsMl0"])
def test_a_broken_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidPageToken):
        _page(NAMES, 10, token)


def test_a_token_of_another_query_is_refused() -> None:
    _, token = _page(NAMES, 10, "", query="a")

    with pytest.raises(InvalidPageToken):
        _page(NAMES, 10, token, query="b")
