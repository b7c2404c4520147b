from __future__ import annotations

import io
import wave
import zipfile

import pytest
from PIL import Image as Picture

from aegis_agent.domain.media import contradicts, detect, fits, is_text, known_as, normal


def picture(form: str) -> bytes:
    buffer = io.BytesIO()
    Picture.new("RGB", (8, 8)).save(buffer, form)
    return buffer.getvalue()


def sound() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(64))
    return buffer.getvalue()


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a", "b")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        *((picture(form), f"image/{form.lower()}") for form in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")),
        (picture("ICO"), "image/x-icon"),
        (picture("PDF"), "application/pdf"),
        (sound(), "audio/wav"),
        (archive(), "application/zip"),
        (b"ID3\x04\x00", "audio/mpeg"),
        (b"\xff\xfb\x90\x00", "audio/mpeg"),
        (b"\xff\xf1\x50\x80", "audio/aac"),
        (b"fLaC\x00", "audio/flac"),
        (b"OggS\x00", "audio/ogg"),
        (b"FORM\x00\x00\x00\x00AIFF", "audio/aiff"),
        (b"\x00\x00\x00\x18ftypisom\x00", "video/mp4"),
        (b"\x00\x00\x00\x18ftypM4A \x00", "audio/mp4"),
        (b"\x00\x00\x00\x18ftypqt  \x00", "video/quicktime"),
        (b"\x00\x00\x00\x18ftypavif\x00", "image/avif"),
        (b"\x00\x00\x00\x18ftypheic\x00", "image/heic"),
        (b"\x1a\x45\xdf\xa3\x01\x42\x82\x84webm", "video/webm"),
        (b"\x1a\x45\xdf\xa3\x01\x42\x82\x88matroska", "video/x-matroska"),
        (b"RIFF\x00\x00\x00\x00AVI LIST", "video/x-msvideo"),
        (b"BM is a text that begins like a bitmap", ""),
        (b"RIFF\x00\x00\x00\x00ODD ", ""),
        (b'{"a": 1}', ""),
        (b"", ""),
    ],
)
def test_the_first_bytes_show_the_kind(data: bytes, media_type: str) -> None:
    assert detect(data) == media_type


@pytest.mark.parametrize(
    ("declared", "detected", "wrong"),
    [
        ("", "image/png", False),
        ("image/png", "image/png", False),
        ("image/jpg", "image/jpeg", False),
        ("image/png", "image/jpeg", True),
        ("image/png", "", True),
        ("image/x-canon-cr3", "", False),
        ("text/csv", "", False),
        ("application/json", "image/png", True),
        ("audio/mp4", "video/mp4", False),
        ("video/mp4", "audio/ogg", True),
        ("application/vnd.openxmlformats-officedocument.wordprocessingml.document", "application/zip", False),
        ("text/plain", "application/zip", True),
        ("image/png", "application/zip", True),
        ("application/octet-stream", "image/png", False),
        ("application/x-www-form-urlencoded", "image/png", False),
    ],
)
def test_what_was_said_must_not_speak_against_the_content(declared: str, detected: str, wrong: bool) -> None:
    assert contradicts(normal(declared), detected) == wrong


def test_names_of_one_type_are_made_one() -> None:
    assert normal("Audio/X-WAV; codecs=1") == "audio/wav"
    assert normal("application/octet-stream") == ""
    assert normal(" TEXT/Plain; charset=utf-8") == "text/plain"


def test_content_is_known_as_what_was_said_or_shown_or_as_text() -> None:
    assert known_as("text/csv", b"a,b") == "text/csv"
    assert known_as("", picture("PNG")) == "image/png"
    assert known_as("", "größer".encode()) == "text/plain"
    assert known_as("", b"\x00\x01") == known_as("", b"") == "application/octet-stream"


def test_a_character_that_is_cut_is_still_text() -> None:
    text = "ä" * 300

    assert is_text(text.encode()[:511])
    assert not is_text(b"\xff\xfe\xfd\xfc")


def test_a_kind_takes_all_its_types() -> None:
    assert fits("image/png", "image/*")
    assert fits("image/png", "*/*")
    assert fits("audio/x-wav", "audio/wav")
    assert not fits("imagery/png", "image/*")
    assert not fits("image/png", "image/jpeg")
