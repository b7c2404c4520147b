"""What onnxruntime says of a fault, without the places in its own source where it was found."""

from __future__ import annotations

import re
from typing import Final

_CODE: Final = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_PLACE: Final = re.compile(r"(?:[\w.+-]*/)*[\w+-]+\.(?:cc|cpp|cu|cuh|h|hpp):\d+ ")
_NAME: Final = re.compile(r"\w+ ")
_SIGNATURE: Final = re.compile(r"[\w:<>,*& ~]*::[\w:<>,*& ~]*(?=\()")
_AFTER_SIGNATURE: Final = re.compile(r"(?: const)?(?: \[with [^\]]*\])? ")
_CONDITION: Final = re.compile(r"[^.]{1,200} was false\. (?=\S)")


def plain(error: Exception) -> Exception:
    """Return onnxruntime's error without code, source files, functions and conditions; any other as it is."""
    text, coded = _CODE.subn("", str(error))
    if not coded:
        return error
    while place := _PLACE.search(text):
        text = text[: place.start()] + _without_function(text[place.end() :])
    return type(error)(text.strip() or type(error).__name__)


def _without_function(text: str) -> str:
    """Return what follows the function, a bare name or a whole signature, that *text* begins with."""
    signature = _SIGNATURE.match(text)
    if signature is None:
        name = _NAME.match(text)
        return text[name.end() :] if name else text
    depth, end = 0, len(text)
    for index in range(signature.end(), len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if depth == 0:
            end = index + 1
            break
    rest = text[end:]
    if after := _AFTER_SIGNATURE.match(rest):
        rest = rest[after.end() :]
    return _CONDITION.sub("", rest, count=1) if _CONDITION.match(rest) else rest
