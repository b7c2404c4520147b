"""What a JSON text holds is counted before it is parsed, texts inside it left out."""

from __future__ import annotations

import json

import pytest

from aegis_agent.adapters.http.weight import (
    MessageNotUtf8,
    MessageTooComplex,
    MostWeight,
    check_weight,
)

MOST = MostWeight(containers=10, values=20, depth=5)
FILL = "x" * 600_000


@pytest.mark.parametrize("fill", ["", FILL])
@pytest.mark.parametrize(
    ("value", "what"),
    [
        ([[]] * 10, "10 lists and objects;"),
        ([{}] * 10, "10 lists and objects;"),
        ([1] * 22, "20 values;"),
        ({str(i): "[" for i in range(22)}, "20 values;"),
        ([[[[[[1]]]]]], "5 lists and objects inside each other;"),
    ],
)
async def test_what_holds_too_much_is_refused(value: object, what: str, fill: str) -> None:
    with pytest.raises(MessageTooComplex, match=what):
        await check_weight(json.dumps([value, fill] if fill else value).encode(), MOST)


@pytest.mark.parametrize(
    "value",
    [
        [[]] * 9,
        [1] * 20,
        [[[[[1]]]]],
        "[{," * 100,
        ['\\"[[[[[[[[[[[[[', "[" * 30],
        ["\\", "[" * 300_000, "\\\\" * 150_000, '"' * 300_000, FILL, "[[[[[[[[[[[[[[["],
    ],
)
async def test_what_stands_in_a_text_does_not_count(value: object) -> None:
    await check_weight(json.dumps(value).encode(), MOST)


@pytest.mark.parametrize("body", [b"", b'"', b'["\\', b"]" * 50, b'[[[[[[[[[["' + b"\\" * 11, b"\xff" * 50])
async def test_what_is_no_json_is_left_to_the_parser(body: bytes) -> None:
    await check_weight(body, MostWeight(containers=10, values=2, depth=20))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32-be"])
async def test_what_hides_its_lists_behind_another_encoding_is_refused(encoding: str) -> None:
    text = json.dumps(["\u0122", [[]] * 100], ensure_ascii=False)

    with pytest.raises(MessageNotUtf8, match="send it as UTF-8"):
        await check_weight(text.encode(encoding), MOST)
