"""Artifacts as MCP resources: `aegis://artifacts/{sha256}` of the caller's tenant."""

from __future__ import annotations

import base64
from typing import Any, Final

from mcp.server.context import ServerRequestContext
from mcp_types import (
    BlobResourceContents,
    ListResourcesResult,
    ListResourceTemplatesResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextResourceContents,
)

from aegis_agent.adapters.artifacts.access import TenantArtifacts
from aegis_agent.adapters.artifacts.store import ArtifactFilter, StoredArtifacts
from aegis_agent.adapters.mcp.content import ARTIFACT_URI, artifact_uri
from aegis_agent.domain.artifacts import Artifact, UnknownArtifact
from aegis_common.rpc.call import current_call

PAGE_SIZE: Final = 100
MAX_READ_BYTES: Final = 8 << 20
"""Largest artifact that is read over MCP; the others are downloaded."""

_URI_CHARS: Final = 200

Context = ServerRequestContext[Any, Any]


class ResourceHandlers:
    """Translate only; the store knows what is kept."""

    def __init__(self, store: StoredArtifacts) -> None:
        self._store = store

    async def list(self, _: Context, params: PaginatedRequestParams | None) -> ListResourcesResult:
        """Return a page of the tenant's artifacts, newest first.

        Raises:
            InvalidPageToken: The cursor is of another list.
            StoreUnavailable: The store does not answer.
        """
        cursor = (params.cursor if params else None) or ""
        found, after = await self._store.page(_tenant(), ArtifactFilter(), size=PAGE_SIZE, token=cursor)
        return ListResourcesResult(resources=[_resource(item) for item in found], next_cursor=after or None)

    async def templates(self, _: Context, __: PaginatedRequestParams | None) -> ListResourceTemplatesResult:
        """Return the one form that all URIs have."""
        template = ResourceTemplate(
            name="artifact",
            uri_template=f"{ARTIFACT_URI}artifacts/{{sha256}}",
            description="Content that was uploaded or that a tool has kept, by its SHA-256.",
        )
        return ListResourceTemplatesResult(resource_templates=[template])

    async def read(self, _: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
        """Return an artifact's content.

        Raises:
            UnknownArtifact: The tenant has none of that URI.
            ArtifactTooLarge: It is to be downloaded.
            StoreUnavailable: The store does not answer.
        """
        uri = str(params.uri)
        name = uri.removeprefix(ARTIFACT_URI)
        artifacts = TenantArtifacts(self._store, _tenant(), max_load_bytes=MAX_READ_BYTES)
        try:
            artifact, data = await artifacts.describe(name), await artifacts.read(name)
        except UnknownArtifact as error:
            raise UnknownArtifact(error.message, uri=uri[:_URI_CHARS]) from error
        return ReadResourceResult(contents=[_contents(artifact, data)])


def _tenant() -> str:
    return current_call().principal.tenant


def _resource(artifact: Artifact) -> Resource:
    return Resource(
        name=artifact.filename or artifact.sha256[:12],
        uri=artifact_uri(artifact.name),
        mime_type=artifact.media_type,
        size=artifact.size_bytes,
    )


def _contents(artifact: Artifact, data: bytes) -> TextResourceContents | BlobResourceContents:
    uri, kind = artifact_uri(artifact.name), artifact.media_type
    if kind.startswith("text/") or kind == "application/json":
        try:
            return TextResourceContents(uri=uri, mime_type=kind, text=data.decode())
        except UnicodeDecodeError:
            pass
    return BlobResourceContents(uri=uri, mime_type=kind, blob=base64.b64encode(data).decode())
