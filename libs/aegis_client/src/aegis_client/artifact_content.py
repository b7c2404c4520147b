"""Content on its way to a service, and on its way from one."""

from __future__ import annotations

import hashlib
import io
import mimetypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Final, Protocol, Self

from aegis_client.errors import DataLoss, UsageError

if TYPE_CHECKING:
    from aegis_client.artifact_forms import Artifact

PIECE_BYTES: Final = 256 << 10
_NAME_LENGTH: Final = 48  # of a name that may have 4 bytes for a character
Given = Path | str | bytes | BinaryIO
Progress = Callable[[int, int | None], None]
"""Called with the bytes that are done, and the bytes in all (None when unknown)."""

# What the service finds out by itself, and better than by a name.
_SHOWS_ITSELF: Final = frozenset({"application/pdf", "application/zip", "application/gzip"})


class Content:
    """What is sent: use it in a `with` block.

    Attributes:
        media_type: As the caller says, or as the file's name tells where the content itself does not.
        filename: For people; may be empty.
        size: In bytes, or None when it shows only at the end.
        sha256: Once `measure` has run; empty for what can be read only once.
    """

    def __init__(self, file: IO[bytes], *, media_type: str, filename: str, owned: bool) -> None:
        self._file = file
        self._owned = owned
        self._start = file.tell() if file.seekable() else 0
        self.repeatable: Final = file.seekable()
        self.media_type: Final = media_type or _guessed(filename)
        self.filename: Final = filename
        self.size: int | None = None
        self.sha256 = ""

    @classmethod
    def open(cls, given: Given, *, media_type: str, filename: str) -> Self:
        """Open what the caller gave.

        Raises:
            UsageError: It cannot be read.
        """
        if isinstance(given, bytes | bytearray | memoryview):
            return cls(io.BytesIO(given), media_type=media_type, filename=filename, owned=True)
        if isinstance(given, str | Path):
            path = Path(given)
            try:
                file = path.open("rb")
            except OSError as error:
                raise UsageError(f"file {path} cannot be read: {error.strerror}") from error
            return cls(file, media_type=media_type, filename=filename or path.name, owned=True)
        if not hasattr(given, "read"):
            raise UsageError(f"{type(given).__name__} is no path, bytes or file")
        name: Any = getattr(given, "name", "")
        named = filename or (Path(name).name if isinstance(name, str) and name[:1] != "<" else "")
        return cls(given, media_type=media_type, filename=named, owned=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._owned:
            self._file.close()

    def measure(self) -> None:
        """Find out size and digest, where the content can be read twice.

        Raises:
            UsageError: It cannot be read.
        """
        if not self.repeatable:
            return
        digest, size = hashlib.sha256(), 0
        for piece in self.pieces():
            digest.update(piece)
            size += len(piece)
        self.size, self.sha256 = size, digest.hexdigest()

    def pieces(self) -> Iterator[bytes]:
        """Return the content piece by piece, from its beginning.

        Raises:
            UsageError: It cannot be read.
        """
        try:
            if self.repeatable:
                self._file.seek(self._start)
            while piece := self._file.read(PIECE_BYTES):
                if not isinstance(piece, bytes):
                    raise UsageError(f"the file gives {type(piece).__name__}, not bytes: open it with 'rb'")
                yield piece
        except (OSError, ValueError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"{self.filename or 'the content'} cannot be read: {error}") from error


def _guessed(filename: str) -> str:
    kind = mimetypes.guess_type(filename)[0] or ""
    text = kind.startswith("text/") or kind.endswith(("+xml", "+json"))
    return kind if text or (kind.startswith("application/") and kind not in _SHOWS_ITSELF) else ""


class Expected(Protocol):
    """What a download has to be."""

    @property
    def name(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...


class Landing:
    """Where a download goes: a file, or memory. Use it in a `with` block.

    Attributes:
        offset: How much is there already.
    """

    def __init__(
        self, about: Expected, file: IO[bytes], part: Path | None, to: Path | None, progress: Progress | None
    ) -> None:
        self._about = about
        self._file = file
        self._part = part
        self._to = to
        self._progress = progress
        self._digest = hashlib.sha256()
        self.offset = 0

    @classmethod
    def open(cls, about: Artifact, to: Path | str | None, progress: Progress | None) -> Self:
        """Open the place, and take over what an earlier download left there.

        Raises:
            UsageError: The file cannot be written.
        """
        if to is None:
            return cls.in_memory(about, progress)
        place = Path(to)
        if place.is_dir():
            place = _place_in(place, about)
        part = place.with_name(f"{place.name[:_NAME_LENGTH]}.{about.sha256[:16]}.part")
        try:
            file = part.open("a+b")
        except OSError as error:
            raise UsageError(f"file {place} cannot be written: {error.strerror}") from error
        if not _locked(file):
            file.close()
            raise UsageError(f"another process is fetching {place} just now")
        made = cls(about, file, part, place, progress)
        made._take_over()
        return made

    @classmethod
    def in_memory(cls, about: Expected, progress: Progress | None) -> Self:
        return cls(about, io.BytesIO(), None, None, progress)

    def _take_over(self) -> None:
        self._file.seek(0)
        while piece := self._file.read(PIECE_BYTES):
            self._digest.update(piece)
            self.offset += len(piece)
        if self.offset > self._about.size_bytes:
            self._file.truncate(0)
            self._digest, self.offset = hashlib.sha256(), 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def take(self, piece: bytes) -> None:
        """Write the next piece.

        Raises:
            UsageError: The file cannot be written.
        """
        try:
            self._file.write(piece)
        except OSError as error:
            raise UsageError(f"file {self._to} cannot be written: {error.strerror}") from error
        self._digest.update(piece)
        self.offset += len(piece)
        if self._progress:
            self._progress(self.offset, self._about.size_bytes)

    def finish(self) -> bytes | Path:
        """Check what came, and return it or the path where it lies.

        Raises:
            DataLoss: It is not what it has to be; nothing is left of it.
            UsageError: The file cannot be written.
        """
        if self._part is None or self._to is None:
            return self.content()
        self._check()
        try:
            self._file.close()
            self._part.replace(self._to)
        except OSError as error:
            raise UsageError(f"file {self._to} cannot be written: {error.strerror}") from error
        return self._to

    def content(self) -> bytes:
        """Check what came into memory, and return it.

        Raises:
            DataLoss: It is not what it has to be.
        """
        self._check()
        if not isinstance(self._file, io.BytesIO):
            raise TypeError("it goes to a file")
        return self._file.getvalue()

    def _check(self) -> None:
        if self._digest.hexdigest() == self._about.sha256:
            return
        if self._part:
            self._part.unlink(missing_ok=True)
        raise DataLoss(
            f"what came of {self._about.name} has SHA-256 {self._digest.hexdigest()}", code="DATA_LOSS"
        )


def _place_in(folder: Path, about: Artifact) -> Path:
    """Return a new file in *folder*: a name that somebody else chose replaces and hides nothing."""
    name = Path(about.filename).name
    place = folder / (about.sha256 if not name or name.startswith(".") else name)
    if place.exists():
        raise UsageError(f"file {place} is there already; name the file to write")
    return place


def _locked(file: IO[bytes]) -> bool:
    """Lock *file* for this process, where the system can; return False if another one has it."""
    try:
        import fcntl  # noqa: PLC0415  # not on every system
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
