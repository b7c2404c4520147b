"""Checks of a published version, from its bytes in the store on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import Enum
from typing import Final

from aegis_agent.domain.known_versions import KnownVersions
from aegis_agent.domain.model import ModelLibrary, ModelLoader, ModelVersion
from aegis_agent.domain.model_errors import ModelExampleFailed, distrusted
from aegis_common.errors import AegisError, ErrorKind
from aegis_common.store.bundle import FORMAT_BUNDLE

AT_ONCE: Final = 2
"""Each holds a model file, and the model once more, in memory."""
_VERDICTS: Final = frozenset({ErrorKind.FAILED_PRECONDITION, ErrorKind.INVALID_ARGUMENT, ErrorKind.NOT_FOUND})


class CheckKind(Enum):
    """What is looked at."""

    SIGNATURE = "signature"
    DIGEST = "digest"
    LOAD = "load"
    EXAMPLE = "example"


@dataclass(frozen=True, slots=True)
class Check:
    """What was found.

    Attributes:
        message: For people.
        reason: Of the error; empty when it passed.
    """

    kind: CheckKind
    passed: bool
    message: str
    reason: str = ""


class ModelChecks:
    """Checks versions beside what serves them.

    Args:
        library: Where they lie.
        loader: Loads them.
        known: Which have been published.
    """

    def __init__(self, library: ModelLibrary, loader: ModelLoader, known: KnownVersions) -> None:
        self._library = library
        self._loader = loader
        self._known = known
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def verify(self, name: str, version: str, *, tenant: str) -> list[Check]:
        """Return the checks in order, up to the first one that failed.

        Raises:
            UnknownModel: The tenant has no such model.
            UnknownModelVersion: The model has no such version.
            AegisError: Something is away or full, which says nothing about the version.
        """
        known = self._known.get(name, version, tenant=tenant)
        done = list[Check]()
        async with self._slots:
            kind = CheckKind.SIGNATURE
            try:
                found = await self._signed(known)
                done.append(_passed(kind, f"signed by key {found.signer_key_id}, which counts here"))
                kind = CheckKind.DIGEST
                data = await self._library.data(found, sha256=known.sha256)
                done.append(_passed(kind, f"{len(data)} bytes, sha256 {found.sha256}"))
                kind = CheckKind.LOAD
                await self._load(found, data, done)
            except AegisError as error:
                if error.kind not in _VERDICTS:
                    raise
                done.append(Check(kind, False, error.message, error.reason))
        return done

    async def _signed(self, version: ModelVersion) -> ModelVersion:
        found = await self._library.version(version.tenant, version.model, version.version)
        if found.distrusted:
            raise distrusted(found.model, found.version, found.signer_key_id)
        return found

    async def _load(self, version: ModelVersion, data: bytes, done: list[Check]) -> None:
        loaded = _passed(CheckKind.LOAD, "loaded afresh, and ran")
        try:
            await self._loader.verify(version, data)
        except ModelExampleFailed as error:
            done += [loaded, Check(CheckKind.EXAMPLE, False, error.message, error.reason)]
            return
        done.append(loaded)
        if version.format == FORMAT_BUNDLE:
            done.append(_passed(CheckKind.EXAMPLE, "its examples gave what they promise"))


def _passed(kind: CheckKind, message: str) -> Check:
    return Check(kind, True, message)
