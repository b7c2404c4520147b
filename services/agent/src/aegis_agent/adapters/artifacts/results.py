"""Results as parts of an answer: what is too large to travel inside it becomes an artifact."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from aegis.agent.v1 import part_pb2 as pb
from aegis_agent.adapters import parts
from aegis_agent.domain.call import Artifacts
from aegis_agent.domain.offload import offloaded
from aegis_agent.domain.parts import MAX_INLINE_BYTES
from aegis_agent.domain.schema import is_artifact
from aegis_agent.domain.tool import JsonSchema

_JSON: Final = "application/json"
_TEXT: Final = "text/plain"
_LARGE_BYTES: Final = 128 << 10
_REFERENCE_BYTES: Final = 512
_ENVELOPE_BYTES: Final = 16 << 10


async def result_parts(
    value: Any,
    artifacts: Artifacts | None,
    *,
    room: int,
    inline_bytes: int = MAX_INLINE_BYTES,
    schema: JsonSchema | None = None,
    root: JsonSchema | None = None,
) -> list[pb.Part]:
    """Return a result as parts. Where nothing keeps artifacts, all of it stands inside, whatever its size.

    Args:
        value: JSON values, and bytes.
        artifacts: The caller's artifacts, or None.
        room: Most bytes of the whole answer; the largest parts become artifacts until the others fit.
        inline_bytes: Most raw bytes of one part.
        schema: The schema of the value; where it says that the value is an artifact, the part is one too.
        root: The whole schema, when *schema* is a part of it.

    Raises:
        UnknownArtifact: The result names an artifact that is not there.
        ArtifactQuotaExceeded, ArtifactTooLarge: There is no room for them.
        StoreUnavailable: The artifact store does not answer.
    """
    if (
        artifacts is not None
        and schema is not None
        and isinstance(value, str)
        and is_artifact(schema, root or schema)
    ):
        about = await artifacts.describe(value)
        return [pb.Part(artifact=value, media_type=about.media_type, filename=about.filename)]
    made = await offloaded(parts.to_protos, value)
    if artifacts is None:
        return made
    sizes = [part.ByteSize() for part in made]
    for index in sorted(range(len(made)), key=sizes.__getitem__, reverse=True):
        too_much = sum(sizes) > room - _ENVELOPE_BYTES and sizes[index] > _REFERENCE_BYTES
        if too_much or len(made[index].inline_bytes) > inline_bytes:
            made[index] = await _stored(made[index], artifacts)
            sizes[index] = made[index].ByteSize()
    return made


async def _stored(part: pb.Part, artifacts: Artifacts) -> pb.Part:
    large = part.ByteSize() > _LARGE_BYTES
    data, media_type = await asyncio.to_thread(_bytes, part) if large else _bytes(part)
    name = await artifacts.save(data, media_type=media_type, filename=part.filename)
    if not media_type:
        media_type = (await artifacts.describe(name)).media_type
    return pb.Part(artifact=name, name=part.name, media_type=media_type, filename=part.filename)


def _bytes(part: pb.Part) -> tuple[bytes, str]:
    kind = part.WhichOneof("content")
    if kind == "json":
        text = json.dumps(parts.plain(part.json), ensure_ascii=False, separators=(",", ":"))
        return text.encode(), _JSON
    if kind == "text":
        return part.text.encode(), _TEXT
    return part.inline_bytes, part.media_type
