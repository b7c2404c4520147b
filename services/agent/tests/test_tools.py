"""The built-in tools on real and on hostile bytes."""

from __future__ import annotations

import io
import zlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from PIL import Image, ImageDraw, ImageFont

from aegis_agent import AgentManager
from aegis_agent.domain.errors import InvalidToolInput
from aegis_agent.tools.builtin import BUILTIN


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tools() -> AsyncIterator[AgentManager]:
    async with AgentManager() as made:
        for name, function in BUILTIN.items():
            made.register_tool(name, function)
        yield made


def page(*lines: str, format: str = "PNG", **options: object) -> bytes:  # noqa: A002
    image = Image.new("RGB", (700, 400), "white")
    draw = ImageDraw.Draw(image)
    for i, line in enumerate(lines):
        draw.text((20, 20 + 60 * i), line, fill="black", font=ImageFont.load_default(size=36))
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def picture(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "white").save(buffer, "PNG")
    return buffer.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header announces a size that its data does not have."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.asyncio(loop_scope="module")
async def test_echo_gives_back_what_it_gets(tools: AgentManager) -> None:
    assert await tools.dispatch("echo", "hello") == "hello"


@pytest.mark.asyncio(loop_scope="module")
async def test_ocr_reads_lines_with_scores_and_boxes(tools: AgentManager) -> None:
    result = await tools.dispatch("image_ocr", page("Invoice 4711", "Total 12.50"), timeout=100)

    assert [line["text"].split() for line in result["lines"]] == [["Invoice", "4711"], ["Total", "12.50"]]
    assert (result["width_px"], result["height_px"]) == (700, 400)
    assert all(line["score"] > 0.9 and len(line["box"]) == 4 for line in result["lines"])
    first, second = (line["box"][0] for line in result["lines"])
    assert 0 <= first["y"] < second["y"] < 400
    assert result["text"].count("\n") == 1


@pytest.mark.asyncio(loop_scope="module")
async def test_ocr_of_an_empty_image_finds_nothing(tools: AgentManager) -> None:
    result = await tools.dispatch("image_ocr", page("", format="JPEG"), timeout=100)

    assert (result["text"], result["lines"], result["mean_score"]) == ("", [], None)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("size", [(1, 1), (40, 400), (2500, 25)], ids=str)
async def test_small_and_slim_images_are_read(tools: AgentManager, size: tuple[int, int]) -> None:
    result = await tools.dispatch("image_ocr", picture(*size), timeout=100)

    assert (result["width_px"], result["height_px"], result["text"]) == (*size, "")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"", "bytes_too_short"),
        (b"junk", "format"),
        (page("cut")[:300], "format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "format"),
        (png_of_size(30_000, 30_000), "maxPixels"),
        (png_of_size(8_000, 6_000), "maxPixels"),
        (png_of_size(100, 100), "format"),
        (picture(20, 220), "maxRatio"),
        (picture(20_000, 1), "maxRatio"),
    ],
    ids=["empty", "junk", "truncated", "postscript", "bomb", "large", "no data", "slim", "flat"],
)
async def test_hostile_images_are_refused(tools: AgentManager, data: bytes, rule: str) -> None:
    with pytest.raises(InvalidToolInput) as caught:
        await tools.dispatch("image_ocr", data, timeout=100)

    assert (caught.value.metadata["path"], caught.value.metadata["rule"]) == ("image", rule)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The quick brown fox jumps over the lazy dog", "en"),
        ("Der Strom ist heute besonders sauber", "de"),
        ("Aujourd'hui, le soleil brille sur la ville", "fr"),
    ],
)
async def test_languages_are_told(tools: AgentManager, text: str, language: str) -> None:
    result = await tools.dispatch("detect_language", text, timeout=100)

    assert result["language"] == language
    assert 0.5 < result["probability"] <= 1
    assert result["candidates"][0]["language"] == language


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("text", ["", "123 456", "!?"])
async def test_a_text_without_letters_has_no_language(tools: AgentManager, text: str) -> None:
    with pytest.raises(InvalidToolInput):
        await tools.dispatch("detect_language", text, timeout=100)
