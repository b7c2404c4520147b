"""Frames: what goes between the agent and a child, and what a child must not be able to do with them."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_agent.adapters.children import frames

NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def parsed(frame: bytes) -> Any:
    size, _ = frames.size_of(frame[: frames.HEADER.size])
    body = memoryview(frame)[frames.HEADER.size :]
    return frames.decode(body[:size], body[size:])


@given(VALUES)
def test_every_value_comes_back(value: Any) -> None:
    assert parsed(frames.encode(value)) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object()])
def test_what_json_cannot_carry_is_refused(value: Any) -> None:
    with pytest.raises(frames.FrameError):
        frames.encode(value)


@pytest.mark.parametrize(
    "frame",
    [
        "[]",
        "{}",
        "junk",
        '{"value": 1}',
        '{"value": [], "blobs": [[[7], 1]]}',
        '{"value": {}, "blobs": [[["a", "b"], 1]]}',
        '{"value": null, "blobs": [[[], 99]]}',
        '{"value": null, "blobs": [[[], -1]]}',
        '{"value": null, "blobs": [[[], "x"]]}',
        '{"value": null, "blobs": [7]}',
        '{"value": ' + "[" * 100_000 + "]" * 100_000 + ', "blobs": []}',
        '{"value": ' + "9" * 5_000 + ', "blobs": []}',
    ],
)
def test_a_broken_frame_is_no_more_than_an_error(frame: str) -> None:
    with pytest.raises(frames.FrameError):
        frames.decode(memoryview(frame.encode()), memoryview(b"ab"))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_an_error(data: bytes) -> None:
    with contextlib.suppress(frames.FrameError):
        json.dumps(frames.decode(memoryview(data), memoryview(b"")))
