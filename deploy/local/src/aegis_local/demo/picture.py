"""An image with text, made here, for the tool that reads it."""

from __future__ import annotations

import io
from typing import Final

from PIL import Image, ImageDraw, ImageFont

LINES: Final = ("AEGIS reads this image", "Invoice 2026-0417", "Total 1234.50 EUR")
_SIZE: Final = (760, 260)
_FONT_PX: Final = 44
_LINE_PX: Final = 76


def render(lines: tuple[str, ...] = LINES) -> bytes:
    """Return a PNG file with *lines* one below the other, black on white."""
    image = Image.new("RGB", _SIZE, "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=_FONT_PX)
    for number, line in enumerate(lines):
        draw.text((32, 24 + number * _LINE_PX), line, fill="black", font=font)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def same_text(found: str, expected: tuple[str, ...] = LINES) -> bool:
    """Say whether the text is the expected one, apart from white space and letter case."""
    return "".join(found.split()).lower() == "".join("".join(expected).split()).lower()
