"""The models that an agent serves, their versions and aliases; one's own are pushed, any are pulled."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aegis_client import model_calls as calls
from aegis_client import publisher_forms as publishers
from aegis_client.artifact_content import Landing, Progress
from aegis_client.artifacts import Artifacts, AsyncArtifacts
from aegis_client.core.operation import Operation
from aegis_client.core.surface import AsyncApi, SyncApi, stream, unary
from aegis_client.errors import AegisClientError
from aegis_client.model_forms import ModelVersion, Signed
from aegis_client.profiles import Profile
from aegis_client.publisher_forms import Publisher, PublisherKey

if TYPE_CHECKING:
    from aegis_client.model_content import Checked, Packed

UPLOAD_KEPT_S: Final = 3600.0
"""How long the service keeps the upload of a push that failed, in seconds; the next push need not send it."""
Trusted = Path | str | Sequence[Path | str]


class ModelsSurface:
    list = stream(calls.list_models)
    get = unary(calls.get)
    versions = stream(calls.versions)
    describe = unary(calls.describe)
    verify = unary(calls.verify)
    publish = unary(calls.publish)
    promote = unary(calls.promote)
    rollback = unary(calls.rollback)
    delete = unary(calls.delete)
    delete_alias = unary(calls.delete_alias)


class Models(ModelsSurface, SyncApi):
    """`Client.models`."""

    def push(
        self,
        source: Path | str,
        name: str = "",
        *,
        version: str = "",
        aliases: Sequence[str] = (),
        key: Path | str | None = None,
        provenance: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> ModelVersion:
        """Bring a model of one's own: check it, sign it with the caller's key, upload and publish it.

        The same content is the same version; pushing it again changes nothing. The upload is an artifact
        until the version is published; it stays one while anybody else has the same content there.

        Args:
            source: A folder with `model.yaml`, `model.onnx` and what these need, or an `.onnx` file.
            name: `digits` or `models/digits`; if empty, what `model.yaml` says.
            version: Id of the version; if empty, what `model.yaml` says, then the first 12 hex digits of the
                SHA-256 of what is uploaded.
            aliases: Aliases that point at the version once it is loaded; the tool serves `production`.
            key: File of the private key; None means the profile's, see `publisher_keys.enroll`.
            provenance: Where the model comes from, as a JSON object; it is signed too.
            progress: Called with bytes sent and bytes in all.
            timeout: Deadline of the last step, in which the service loads the model, in seconds.

        Raises:
            UsageError: The folder, the file or a name is wrong, or the key is not enrolled.
            AlreadyExists: Reason `MODEL_VERSION_EXISTS` (with other content or provenance), or
                `TOOL_NAME_TAKEN`.
            FailedPrecondition: Reason `MODEL_NOT_LOADABLE`, `MODEL_TOO_LARGE` or `MODEL_VERSION_DELETED`.
        """
        packed = _pack(self.transport.profile, source, name, version, key)
        publisher: Publisher = self.transport.call(publishers.who())
        packed.check_enrolled(self.transport.iterate(publishers.list_keys()))
        operation = _import(packed, publisher, provenance, aliases, timeout)
        artifacts, holder = Artifacts(self.transport), secrets.token_hex(8)
        artifacts.put(
            packed.data,
            filename=packed.filename,
            retention=UPLOAD_KEPT_S,
            holder=holder,
            progress=progress,
        )
        made = self.transport.call(operation)
        with suppress(AegisClientError):  # it expires soon
            artifacts.delete(packed.sha256, holder=holder)
        return made

    def pull(
        self,
        model: str,
        version: str = calls.PRODUCTION,
        target: Path | str = ".",
        *,
        trusted: Trusted | None = None,
        progress: Progress | None = None,
    ) -> Path:
        """Fetch a version and return where it lies; who signed it and what came is checked before.

        A bundle becomes the folder *target*, anything else the file *target*. In a folder that is there it is
        called `MODEL-VERSION`, and replaces nothing. A download that breaks goes on where it was.

        Args:
            model: `digits` or `models/digits`.
            version: Id of the version, or an alias.
            target: Where it goes.
            trusted: PEM files, or folders of `*.pem`, of the public keys that count; None means those that
                the service has enrolled for the tenant, without the compromised ones.
            progress: Called with bytes done and bytes in all.

        Raises:
            NotFound: Reason `UNKNOWN_MODEL` or `UNKNOWN_MODEL_VERSION`.
            FailedPrecondition: Reason `MODEL_SIGNATURE_INVALID`: none of those keys has signed this version.
            DataLoss: What came is not what was signed.
            UsageError: The place cannot be written, or something is there.
        """
        found = self.transport.call(calls.get(model))
        signed: Signed = self.transport.call(calls.signed(model, found.aliases.get(version, version)))
        publisher: Publisher = self.transport.call(publishers.who())
        keys = [] if trusted else [*self.transport.iterate(publishers.list_keys())]
        checked = _check(signed, publisher, keys, trusted, target)
        with Landing.in_memory(checked.version, progress) as landing:
            for piece in self.transport.iterate(calls.download(checked.version)):
                landing.take(piece)
            return checked.land(landing.content())


class AsyncModels(ModelsSurface, AsyncApi):
    """`AsyncClient.models`."""

    async def push(
        self,
        source: Path | str,
        name: str = "",
        *,
        version: str = "",
        aliases: Sequence[str] = (),
        key: Path | str | None = None,
        provenance: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # it is the call's deadline
    ) -> ModelVersion:
        """Bring a model of one's own; see `Models.push`."""
        packed = await asyncio.to_thread(_pack, self.transport.profile, source, name, version, key)
        publisher: Publisher = await self.transport.call(publishers.who())
        packed.check_enrolled([item async for item in self.transport.iterate(publishers.list_keys())])
        operation = _import(packed, publisher, provenance, aliases, timeout)
        artifacts, holder = AsyncArtifacts(self.transport), secrets.token_hex(8)
        await artifacts.put(
            packed.data,
            filename=packed.filename,
            retention=UPLOAD_KEPT_S,
            holder=holder,
            progress=progress,
        )
        made = await self.transport.call(operation)
        with suppress(AegisClientError):  # it expires soon
            await artifacts.delete(packed.sha256, holder=holder)
        return made

    async def pull(
        self,
        model: str,
        version: str = calls.PRODUCTION,
        target: Path | str = ".",
        *,
        trusted: Trusted | None = None,
        progress: Progress | None = None,
    ) -> Path:
        """Fetch a version and return where it lies; see `Models.pull`."""
        found = await self.transport.call(calls.get(model))
        signed: Signed = await self.transport.call(calls.signed(model, found.aliases.get(version, version)))
        publisher: Publisher = await self.transport.call(publishers.who())
        keys = [] if trusted else [item async for item in self.transport.iterate(publishers.list_keys())]
        checked = await asyncio.to_thread(_check, signed, publisher, keys, trusted, target)
        with Landing.in_memory(checked.version, progress) as landing:
            async for piece in self.transport.iterate(calls.download(checked.version)):
                await asyncio.to_thread(landing.take, piece)
            return await asyncio.to_thread(lambda: checked.land(landing.content()))


def _pack(profile: Profile, source: Path | str, name: str, version: str, key: Path | str | None) -> Packed:
    from aegis_client.model_content import Packed  # noqa: PLC0415  # most clients push nothing: it is heavy
    from aegis_client.publisher_files import key_place  # noqa: PLC0415

    return Packed.of(source, name=name, version=version, key=key_place(profile, key))


def _import(
    packed: Packed,
    publisher: Publisher,
    provenance: Mapping[str, Any] | None,
    aliases: Sequence[str],
    timeout: float | None,
) -> Operation[ModelVersion]:
    return calls.import_version(
        packed.model,
        packed.version,
        sha256=packed.sha256,
        manifest=packed.sealed(publisher, provenance or {}),
        aliases=aliases,
        timeout=timeout,
    )


def _check(
    signed: Signed,
    publisher: Publisher,
    keys: Sequence[PublisherKey],
    trusted: Trusted | None,
    target: Path | str,
) -> Checked:
    from aegis_client import model_content as content  # noqa: PLC0415

    counting = content.named_keys(trusted) if trusted else content.enrolled_keys(keys)
    return content.Checked.of(signed, publisher=publisher, trusted=counting, target=target)
