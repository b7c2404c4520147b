"""Media types: what the first bytes of content show, and whether that fits what was said of it."""

from __future__ import annotations

import re
from typing import Final

HEAD_BYTES: Final = 512
"""How much of the beginning `detect` looks at."""
UNKNOWN: Final = "application/octet-stream"
MEDIA_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*")

# What curl and others say when nobody has told them anything.
_SAYS_NOTHING: Final = frozenset({"", UNKNOWN, "binary/octet-stream", "application/x-www-form-urlencoded"})
_SAME: Final = {
    "image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "image/x-png": "image/png",
    "image/x-ms-bmp": "image/bmp", "image/x-bmp": "image/bmp",
    "audio/wave": "audio/wav", "audio/x-wav": "audio/wav", "audio/vnd.wave": "audio/wav",
    "audio/mp3": "audio/mpeg", "audio/x-mp3": "audio/mpeg", "audio/x-mpeg": "audio/mpeg",
    "audio/x-flac": "audio/flac", "audio/x-aac": "audio/aac", "audio/aacp": "audio/aac",
    "audio/x-aiff": "audio/aiff", "audio/opus": "audio/ogg", "application/ogg": "audio/ogg",
    "audio/m4a": "audio/mp4", "audio/x-m4a": "audio/mp4", "video/x-m4v": "video/mp4",
    "video/avi": "video/x-msvideo", "video/msvideo": "video/x-msvideo", "video/mkv": "video/x-matroska",
    "application/x-gzip": "application/gzip", "application/x-zip-compressed": "application/zip",
}  # fmt: skip
_PREFIXES: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"), (b"GIF89a", "image/gif"), (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"), (b"MM\x00*", "image/tiff"), (b"\x00\x00\x01\x00", "image/x-icon"),
    (b"fLaC", "audio/flac"), (b"OggS", "audio/ogg"), (b"ID3", "audio/mpeg"), (b"#!AMR", "audio/amr"),
    (b"\xff\xf1", "audio/aac"), (b"\xff\xf9", "audio/aac"),
    *((bytes((0xFF, second)), "audio/mpeg") for second in (0xFB, 0xFA, 0xF3, 0xF2, 0xE3, 0xE2)),
    (b"\x00\x00\x01\xba", "video/mpeg"), (b"\x00\x00\x01\xb3", "video/mpeg"), (b"FLV\x01", "video/x-flv"),
    (b"%PDF-", "application/pdf"), (b"PK\x03\x04", "application/zip"), (b"PK\x05\x06", "application/zip"),
    (b"\x1f\x8b\x08", "application/gzip"), (b"\x28\xb5\x2f\xfd", "application/zstd"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"), (b"BZh", "application/x-bzip2"),
    (b"\xfd7zXZ\x00", "application/x-xz"), (b"\x7fELF", "application/x-executable"),
)  # fmt: skip
_RIFF: Final = {b"WAVE": "audio/wav", b"WEBP": "image/webp", b"AVI ": "video/x-msvideo"}
_FORM: Final = {b"AIFF": "audio/aiff", b"AIFC": "audio/aiff"}
_BRANDS: Final = {
    b"avif": "image/avif", b"avis": "image/avif", b"heic": "image/heic", b"heix": "image/heic",
    b"mif1": "image/heic", b"M4A ": "audio/mp4", b"M4B ": "audio/mp4", b"qt  ": "video/quicktime",
    b"3gp4": "video/3gpp", b"3gp5": "video/3gpp",
}  # fmt: skip
_BMP_HEADERS: Final = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
# One container carries what goes by several names, and the first bytes do not tell them apart.
_FAMILIES: Final = (
    frozenset({"video/mp4", "audio/mp4", "video/quicktime", "video/3gpp", "audio/3gpp"}),
    frozenset({"image/heic", "image/heif", "image/avif"}),
    frozenset({"audio/ogg", "video/ogg"}),
    frozenset({"video/webm", "audio/webm", "video/x-matroska", "audio/x-matroska"}),
    frozenset({"audio/mpeg", "audio/aac"}),
    frozenset({"image/x-icon", "image/vnd.microsoft.icon"}),
)
# Documents and packages that are archives inside.
_WRAPPERS: Final = frozenset({"application/zip", "application/gzip", "application/zstd"})
_DETECTABLE: Final = frozenset(
    {kind for _, kind in _PREFIXES}
    | {*_RIFF.values(), *_FORM.values(), *_BRANDS.values()}
    | {kind for family in _FAMILIES for kind in family}
)
_TEXT_CONTROL: Final = frozenset(range(32)) - {7, 8, 9, 10, 12, 13, 27}


def normal(media_type: str) -> str:
    """Return a media type in lower case, without parameters, by its usual name; empty if it says nothing."""
    bare = media_type.partition(";")[0].strip().lower()
    return "" if bare in _SAYS_NOTHING else _SAME.get(bare, bare)


def detect(head: bytes) -> str:
    """Return the media type that the first bytes of content show, or empty."""
    head = bytes(head[:HEAD_BYTES])
    if head[:4] in (b"RIFF", b"FORM"):
        return (_RIFF if head[:4] == b"RIFF" else _FORM).get(head[8:12], "")
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "video/mp4")
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "video/webm" if b"webm" in head[:64] else "video/x-matroska"
    if head[:2] == b"BM":  # too short a sign to be believed alone
        return "image/bmp" if int.from_bytes(head[14:18], "little") in _BMP_HEADERS else ""
    return next((kind for prefix, kind in _PREFIXES if head.startswith(prefix)), "")


def is_text(head: bytes) -> bool:
    """Tell whether the first bytes read as UTF-8 text; a character may be cut at the end."""
    head = bytes(head[:HEAD_BYTES])
    if not head or any(byte in _TEXT_CONTROL for byte in head):
        return False
    for cut in range(4):
        try:
            head[: len(head) - cut].decode()
        except UnicodeDecodeError:
            continue
        return True
    return False


def contradicts(declared: str, detected: str) -> bool:
    """Tell whether content shows itself to be of another kind than was said; both as `normal` has them."""
    if not declared or declared == detected:
        return False
    if not detected:
        return declared in _DETECTABLE
    if detected in _WRAPPERS:
        return declared in _DETECTABLE or declared.startswith("text/")
    return not any(declared in family and detected in family for family in _FAMILIES)


def known_as(declared: str, head: bytes) -> str:
    """Return the media type of content that does not contradict *declared* (as `normal` has it)."""
    return declared or detect(head) or ("text/plain" if is_text(head) else UNKNOWN)


def fits(media_type: str, wanted: str) -> bool:
    """Tell whether *media_type* is *wanted*, which may be a whole kind such as `image/*` or `*/*`."""
    kind, _, rest = wanted.partition("/")
    if rest == "*":
        return kind == "*" or media_type.startswith(f"{kind}/")
    return normal(media_type) == normal(wanted) or media_type == wanted
