"""A status always fits into the trailers that clients accept, whatever the error carries."""

from __future__ import annotations

import base64
import urllib.parse

import pytest

from aegis_common.errors import InvalidArgument
from aegis_common.rpc.errors import from_status, to_status
from aegis_common.rpc.limits import METADATA_BYTES, clipped

TRAILERS_BYTES = 8192


@pytest.mark.parametrize(
    ("message", "metadata", "violations"),
    [
        ("x" * 100_000, {}, {}),
        ("\N{SNOWMAN}" * 10_000, {"value": "\N{SNOWMAN}" * 10_000}, {}),
        ("m", {f"key{i}": "v" * 1000 for i in range(100)}, {f"a[{i}]": "d" * 1000 for i in range(100)}),
        ("lone surrogate \udcff", {"value": "\udcff"}, {"path\udcff": "\udcff"}),
    ],
)
def test_a_status_fits(message: str, metadata: dict[str, str], violations: dict[str, str]) -> None:
    status = to_status(InvalidArgument(message, violations=violations, retry_after=None, **metadata))
    trailers = base64.b64encode(status.SerializeToString()) + urllib.parse.quote(status.message).encode()

    assert len(trailers) < TRAILERS_BYTES
    assert "INVALID_ARGUMENT" == from_status(status).reason


def test_a_cut_text_says_so_and_is_whole_utf8() -> None:
    cut = clipped("\N{SNOWMAN}" * 100, 50)

    assert cut.endswith("...")
    assert len(cut.encode()) <= 50


def test_a_short_text_stays_as_it_is() -> None:
    assert "short" == clipped("short", 50)


def test_metadata_has_room_for_the_largest_token() -> None:
    assert METADATA_BYTES >= 16 << 10
