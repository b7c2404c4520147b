"""What a tool may ask for: a parameter annotated `Context` (sync tools) or `AsyncContext` (async ones).

def caption(image: bytes, context: Context) -> str:
context.progress(1, 3, "decoded")
"""

from __future__ import annotations

import logging
from typing import Protocol


class _Facts(Protocol):
    @property
    def tenant(self) -> str:
        """For whom the tool runs."""
        ...

    @property
    def attempt(self) -> int:
        """1 for the first time that this work is started, 2 for the next."""
        ...

    @property
    def job(self) -> str:
        """Id of the job that the call belongs to, or empty."""
        ...

    @property
    def checkpointed(self) -> bytes | None:
        """What the attempt before saved last, or None."""
        ...

    @property
    def cancelled(self) -> bool:
        """True once the call was cancelled or its deadline is near, for a tool with a `grace`.

        Others are just stopped.
        """
        ...

    @property
    def log(self) -> logging.Logger:
        """A logger whose lines the caller sees too, from `INFO` up."""
        ...

    def time_left(self) -> float:
        """Return the seconds until the work is stopped; 0 and up."""
        ...


class Context(_Facts, Protocol):
    """The context of a sync tool; its methods block until the agent has taken what they give."""

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Tell how far the work has come: *done* of *total* units."""
        ...

    def checkpoint(self, data: bytes) -> None:
        """Save state that the next attempt of a job receives as `checkpointed`; at most 1 MiB.

        Outside a job nothing is kept.
        """
        ...

    def read_artifact(self, name: str) -> bytes:
        """Return the content of `artifacts/{id}`.

        Raises:
            ArtifactError: There is none of that name, or it cannot be read now.
        """
        ...

    def save_artifact(self, data: bytes, *, media_type: str = "", filename: str = "") -> str:
        """Keep *data* and return its resource name, `artifacts/{id}`.

        Raises:
            ArtifactError: It cannot be kept.
        """
        ...


class AsyncContext(_Facts, Protocol):
    """The context of an async tool."""

    async def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Tell how far the work has come: *done* of *total* units."""
        ...

    async def checkpoint(self, data: bytes) -> None:
        """Save state that the next attempt of a job receives as `checkpointed`; at most 1 MiB.

        Outside a job nothing is kept.
        """
        ...

    async def read_artifact(self, name: str) -> bytes:
        """Return the content of `artifacts/{id}`.

        Raises:
            ArtifactError: There is none of that name, or it cannot be read now.
        """
        ...

    async def save_artifact(self, data: bytes, *, media_type: str = "", filename: str = "") -> str:
        """Keep *data* and return its resource name, `artifacts/{id}`.

        Raises:
            ArtifactError: It cannot be kept.
        """
        ...


class ArtifactError(Exception):
    """An artifact cannot be read or kept; the message says which and why."""
