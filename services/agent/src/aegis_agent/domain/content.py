"""Raw bytes that know what they are."""

from __future__ import annotations

from typing import Self

from aegis_agent.domain import media


class Content(bytes):
    """Raw bytes with a media type; equal to the same bytes without one.

    Attributes:
        media_type: IANA media type as the sender said it, or empty.
        filename: For messages and for people; may be empty.
    """

    media_type: str
    filename: str

    def __new__(cls, data: bytes | memoryview, media_type: str = "", filename: str = "") -> Self:
        made = super().__new__(cls, data)
        made.media_type, made.filename = media_type, filename
        return made

    def __repr__(self) -> str:
        return f"Content({len(self)} bytes, {self.media_type!r})"


def fault_of(data: bytes, wanted: str) -> str:
    """Return why *data* is not of the media type *wanted* (`image/*` for a kind), in words, or empty.

    What the content shows counts more than what was said of it.
    """
    declared, detected = media.normal(getattr(data, "media_type", "")), media.detect(data)
    said = f", sent as {declared}" if declared else ""
    if detected:
        shown = declared if declared and not media.contradicts(declared, detected) else detected
        return "" if media.fits(shown, wanted) else f"the content is {detected}{said}; {wanted} is wanted"
    if media.contradicts(declared, detected):
        kind = "text" if media.is_text(data) else "of an unknown kind"
        return f"the content is {kind}, though it was sent as {declared}"
    if declared:
        return (
            "" if media.fits(declared, wanted) else f"the content was sent as {declared}; {wanted} is wanted"
        )
    if wanted == "*/*":
        return ""
    text = "text" if media.is_text(data) else "of an unknown kind, and was sent without a media type"
    return f"the content is {text}; {wanted} is wanted"


def shown_media_type(data: bytes) -> str:
    """Return the media type of *data*: what was said, where the content does not speak against it."""
    declared, detected = media.normal(getattr(data, "media_type", "")), media.detect(data)
    return media.known_as("" if media.contradicts(declared, detected) else declared, data)
