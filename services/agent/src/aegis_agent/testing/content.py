"""Tools that take and give content, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aegis_agent import Artifact, Audio, Image
from aegis_agent.context import Context

PNG = b"\x89PNG\r\n\x1a\n" + bytes(600)


@dataclass
class Stamp:
    """A text and a picture of it."""

    text: str
    picture: Image


def shrink(photo: Image) -> Image:
    """Return the first bytes of an image."""
    return Image(photo.data[:64], photo.media_type, f"small-{photo.filename}")


def measure(photo: Image, sound: Audio) -> dict[str, str]:
    """Tell the media types."""
    return {"photo": photo.media_type, "sound": sound.media_type}


def describe_artifact(document: Artifact) -> dict[str, str | int]:
    """Tell what the handle says."""
    return {
        "name": document.name,
        "media_type": document.media_type,
        "size_bytes": document.size_bytes,
        "filename": document.filename,
    }


def loud(document: Artifact, context: Context) -> Artifact:
    """Return the text of an artifact in capital letters, as another one."""
    data = context.read_artifact(document.name).upper()
    return Artifact(context.save_artifact(data, media_type="text/markdown", filename="loud.md"))


def stamp(text: str) -> Stamp:
    """Return a text and a picture."""
    return Stamp(text, Image(PNG))


def collage(count: int) -> list[Image]:
    """Return several pictures."""
    return [Image(PNG)] * count


def make_large(size: int) -> Image:
    """Return a picture of *size* bytes."""
    return Image(PNG[:8] + bytes(size - 8), filename="large.png")


def make_rows(count: int) -> list[str]:
    """Return *count* texts of 64 KiB."""
    return ["x" * (64 << 10)] * count


def make_pieces(sizes: list[int]) -> Iterator[Image]:
    """Give one picture after the other, each of so many bytes."""
    for size in sizes:
        yield Image(PNG[:8] + bytes(size - 8), filename="piece.png")


def keep_pieces(texts: list[str], context: Context) -> Iterator[Artifact]:
    """Give one artifact after the other."""
    for text in texts:
        yield Artifact(context.save_artifact(text.encode(), media_type="text/plain", filename="piece.txt"))
