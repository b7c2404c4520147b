"""Opaque page tokens, bound to the query they came from."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from aegis_common.errors import InvalidPageToken

DEFAULT_PAGE_SIZE: Final = 100
T = TypeVar("T")


def page(
    items: Sequence[T], *, key: Callable[[T], str], size: int, token: str, query: str
) -> tuple[list[T], str]:
    """Return one page of *items*, which are sorted by *key*, and the token of the next page.

    Args:
        items: All items, in ascending order of *key*.
        key: Unique sort key of an item. New or removed items do not disturb pages that follow.
        size: Most items; 0 means `DEFAULT_PAGE_SIZE`.
        token: Token of the page, or empty for the first.
        query: Everything that shapes the list, for example the method and the tenant.

    Raises:
        InvalidPageToken: The token is broken or belongs to another query.
    """
    after = place_of(token, query) if token else None
    rest = [item for item in items if after is None or key(item) > after]
    count = size or DEFAULT_PAGE_SIZE
    found = rest[:count]
    return found, token_of(key(found[-1]), query) if len(rest) > count else ""


def token_of(after: str, query: str) -> str:
    """Return the token of the page of *query* that begins after the item *after*."""
    text = json.dumps([_digest(query), after], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def place_of(token: str, query: str) -> str:
    """Return the item that the page begins after.

    Raises:
        InvalidPageToken: The token is broken or belongs to another query.
    """
    try:
        digest, after = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (ValueError, TypeError) as error:
        raise InvalidPageToken("page_token cannot be read; take it from next_page_token") from error
    if digest != _digest(query) or not isinstance(after, str):
        raise InvalidPageToken("page_token belongs to another query; start again without one")
    return after


def _digest(query: str) -> str:
    return hashlib.sha256(query.encode()).hexdigest()[:16]
