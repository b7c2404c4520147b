"""The tools that every agent has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from aegis_agent.tools.detect_language import detect_language
from aegis_agent.tools.echo import echo
from aegis_agent.tools.image_ocr import image_ocr

BUILTIN: Final[Mapping[str, Callable[..., Any]]] = {
    "detect_language": detect_language,
    "echo": echo,
    "image_ocr": image_ocr,
}
