"""ArtifactService over real mutual TLS, and artifacts as the input and the result of tools."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from services.agent.tests.artifact_agent import MIB, Service, download, failure, upload

from aegis.agent.v1 import agent_service_pb2 as agent_pb
from aegis.agent.v1 import artifact_service_pb2 as pb
from aegis.agent.v1 import artifact_service_pb2_grpc as pb_grpc
from aegis.agent.v1 import part_pb2
from aegis_agent.adapters.artifacts.servicer import ArtifactServicer
from aegis_agent.adapters.artifacts.store import StoredArtifacts
from aegis_agent.domain.artifacts import ArtifactPolicy
from aegis_agent.main import running
from aegis_agent.settings import AgentSettings
from aegis_common.errors import ErrorKind
from aegis_common.pki import new_ed25519, public_key_pem
from aegis_common.rpc.errors import details_of
from aegis_common.rpc.server import serving
from aegis_common.store.objects import ObjectStore
from aegis_common.testing.pki import Mesh

PNG = b"\x89PNG\r\n\x1a\n" + bytes(600)
TOOLS = (
    "shrink", "measure", "describe_artifact", "stamp", "make_large", "make_rows", "collage", "loud",
    "make_pieces", "keep_pieces",
)  # fmt: skip

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    folder = tmp_path_factory.mktemp("artifacts")
    mesh = Mesh(folder)
    mesh.write_identities(
        {mesh.spiffe_id("blue"): {"tenant": "blue", "roles": ["operator"], "via_gateway": True}}
    )
    trusted = folder / "signing.pem"
    trusted.write_bytes(public_key_pem(new_ed25519(folder / "signing.key")))
    settings = AgentSettings(
        **mesh.service_kwargs("agent"),
        model_store_url=f"file://{folder / 'store'}",
        model_trusted_keys=(trusted,),
        tools=tuple(f"aegis_agent.testing.content:{name}" for name in TOOLS),
        plugins=False,
        warm_up=False,
        max_artifact_bytes=40 * MIB,
        artifact_load_bytes=2 * MIB,
        artifact_quota_bytes=100 * MIB,
        max_artifact_retention=timedelta(days=10),
    )
    async with running(settings) as server:
        made = Service(mesh, server.port)
        yield made
        await asyncio.gather(*(channel.close() for channel in made.channels))


async def test_content_goes_in_and_comes_out_piece_by_piece(service: Service) -> None:
    data = os.urandom(5 * MIB + 7)
    kept = await upload(service, data, filename="a.bin", sha256=hashlib.sha256(data).hexdigest())
    request = pb.DownloadArtifactRequest(name=kept.name)
    pieces = [item.content async for item in service.artifacts().DownloadArtifact(request)]

    assert (kept.name, kept.size_bytes) == (f"artifacts/{hashlib.sha256(data).hexdigest()}", len(data))
    assert b"".join(piece.data for piece in pieces) == data
    assert max(len(piece.data) for piece in pieces) <= MIB
    assert pieces[0].content_type == "application/octet-stream"
    assert await download(service, kept.name, offset=len(data) - 2) == data[-2:]
    assert await download(service, kept.name, offset=len(data)) == b""
    assert await download(service, kept.name, offset=3, limit=4) == data[3:7]
    beyond = download(service, kept.name, offset=len(data) + 1)
    assert (await failure(beyond))[1] == "OFFSET_OUT_OF_RANGE"


async def test_what_is_there_needs_not_be_sent_again(service: Service) -> None:
    sha256 = hashlib.sha256(PNG + b"again").hexdigest()
    before = await failure(upload(service, b"", sha256=sha256, existing=True))
    kept = await upload(service, PNG + b"again", retention=Duration(seconds=60))
    longer = await upload(service, b"", sha256=sha256, existing=True, retention=Duration(seconds=3600))

    assert before == (ErrorKind.NOT_FOUND, "UNKNOWN_ARTIFACT", {"artifact": f"artifacts/{sha256}"})
    assert longer.expire_time.seconds - kept.expire_time.seconds >= 3500
    assert (await failure(upload(service, b"", existing=True)))[1] == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("data", "fields", "reason"),
    [
        (b"x" * 9, {"sha256": "0" * 64}, "ARTIFACT_DIGEST_MISMATCH"),
        (b"x" * 9, {"size_bytes": 8}, "ARTIFACT_DIGEST_MISMATCH"),
        (b"x" * 9, {"size_bytes": 10}, "ARTIFACT_DIGEST_MISMATCH"),
        (b"", {"size_bytes": 40 * MIB + 1}, "ARTIFACT_TOO_LARGE"),
        (PNG, {"media_type": "audio/wav"}, "MEDIA_TYPE_MISMATCH"),
        (b"x", {"media_type": "multipart/form-data; boundary=x"}, "INVALID_ARGUMENT"),
        (b"x", {"media_type": "no type"}, "INVALID_REQUEST"),
        (b"x", {"content": HttpBody(content_type="a/b\r\nset-cookie: x")}, "INVALID_MEDIA_TYPE"),
        (b"x", {"retention": Duration(seconds=864001)}, "RETENTION_TOO_LONG"),
        (b"x", {"retention": Duration(seconds=0)}, "INVALID_REQUEST"),
    ],
)
async def test_a_wrong_upload_is_refused_and_leaves_nothing(
    service: Service, data: bytes, fields: dict[str, Any], reason: str
) -> None:
    before = await service.artifacts().ListArtifacts(pb.ListArtifactsRequest())
    kind, told, _ = await failure(upload(service, data, **fields))
    after = await service.artifacts().ListArtifacts(pb.ListArtifactsRequest())

    assert (kind, told) == (ErrorKind.INVALID_ARGUMENT, reason)
    assert before == after


async def test_more_than_the_limit_is_refused_while_it_comes(service: Service) -> None:
    kind, reason, metadata = await failure(upload(service, bytes(41 * MIB)))

    assert (kind, reason) == (ErrorKind.INVALID_ARGUMENT, "ARTIFACT_TOO_LARGE")
    assert metadata == {"size_bytes": str(41 * MIB), "max_bytes": str(40 * MIB)}


async def test_a_tenant_is_kept_from_anothers_and_a_viewer_from_changing(service: Service) -> None:
    kept = await upload(service, b"only mine")
    unknown = (ErrorKind.NOT_FOUND, "UNKNOWN_ARTIFACT", {"artifact": kept.name})
    blue, viewer = service.artifacts("blue"), service.artifacts("viewer")

    assert await failure(blue.GetArtifact(pb.GetArtifactRequest(name=kept.name))) == unknown
    assert await failure(download(service, kept.name, account="blue")) == unknown
    assert await failure(blue.DeleteArtifact(pb.DeleteArtifactRequest(name=kept.name))) == unknown
    assert not (await blue.ListArtifacts(pb.ListArtifactsRequest())).artifacts
    assert (await upload(service, b"only mine", account="blue")).name == kept.name
    assert await download(service, kept.name, account="viewer") == b"only mine"
    refused = failure(viewer.DeleteArtifact(pb.DeleteArtifactRequest(name=kept.name)))
    assert (await refused)[0] == ErrorKind.PERMISSION_DENIED


async def test_lists_have_pages_and_filters(service: Service) -> None:
    stub = service.artifacts("blue")
    names = [(await upload(service, PNG + bytes([n]), account="blue")).name for n in range(3)]
    first = await stub.ListArtifacts(pb.ListArtifactsRequest(page_size=2, media_type="image/*"))
    rest = await stub.ListArtifacts(
        pb.ListArtifactsRequest(page_size=2, media_type="image/*", page_token=first.next_page_token)
    )
    await stub.DeleteArtifact(pb.DeleteArtifactRequest(name=names[0]))
    left = await stub.ListArtifacts(pb.ListArtifactsRequest(media_type="image/png"))

    assert [item.name for item in (*first.artifacts, *rest.artifacts)] == names[::-1]
    assert rest.next_page_token == ""
    assert [item.name for item in left.artifacts] == names[:0:-1]


async def test_a_tool_that_takes_an_image_gets_one_from_an_artifact(service: Service) -> None:
    kept = await upload(service, PNG, filename="cat.png")
    by_part = await service.run("shrink", part_pb2.Part(artifact=kept.name))
    by_name = await service.run("shrink", part_pb2.Part(artifact=kept.name, name="photo"))
    as_text = await service.run("shrink", photo=kept.name)
    inline = await service.run("shrink", part_pb2.Part(inline_bytes=PNG, filename="cat.png"))

    (part,) = inline.result
    assert (part.inline_bytes, part.media_type, part.filename) == (PNG[:64], "image/png", "small-cat.png")
    assert by_part.result == by_name.result == as_text.result == inline.result


async def test_the_wrong_kind_of_content_is_refused_by_name(service: Service) -> None:
    sound = b"RIFF\x00\x00\x00\x00WAVEfmt "
    kept = await upload(service, sound)
    cases = [
        (part_pb2.Part(inline_bytes=sound), "the content is audio/wav; image/* is wanted"),
        (
            part_pb2.Part(inline_bytes=sound, media_type="image/png", name="photo"),
            "the content is audio/wav, sent as image/png; image/* is wanted",
        ),
        (part_pb2.Part(inline_bytes=b"hello"), "the content is text; image/* is wanted"),
        (part_pb2.Part(artifact=kept.name), f"{kept.name} is audio/wav; image/* is wanted"),
    ]
    for part, message in cases:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.run("shrink", part)
        found = details_of(caught.value)
        assert (found.reason, found.metadata["rule"]) == ("INVALID_TOOL_INPUT", "contentMediaType")
        assert message in str(caught.value.details())


async def test_parts_go_to_the_parameter_of_their_media_type(service: Service) -> None:
    sound = b"RIFF\x00\x00\x00\x00WAVEfmt "
    result = await service.run("measure", part_pb2.Part(inline_bytes=sound), part_pb2.Part(inline_bytes=PNG))

    assert dict(result.result[0].json) == {"photo": "image/png", "sound": "audio/wav"}


async def test_an_artifact_too_large_for_a_call_comes_as_a_handle(service: Service) -> None:
    data = PNG + bytes(3 * MIB)
    kept = await upload(service, data, filename="big.png")
    handle = await service.run("describe_artifact", part_pb2.Part(artifact=kept.name))
    kind, reason, metadata = await failure(service.run("shrink", part_pb2.Part(artifact=kept.name)))

    assert dict(handle.result[0].json) == {
        "name": kept.name,
        "media_type": "image/png",
        "size_bytes": len(data),
        "filename": "big.png",
    }
    assert (kind, reason) == (ErrorKind.INVALID_ARGUMENT, "INVALID_TOOL_INPUT")
    assert (metadata["path"], metadata["rule"]) == ("photo", "maxBytes")


async def test_an_unknown_artifact_or_a_place_for_none_is_refused(service: Service) -> None:
    name = "artifacts/" + "0" * 64
    kept = await upload(service, b"text")
    unknown = await failure(service.run("shrink", part_pb2.Part(artifact=name)))
    nowhere = await failure(service.run("stamp", part_pb2.Part(artifact=kept.name, name="text")))

    assert unknown == (ErrorKind.NOT_FOUND, "UNKNOWN_ARTIFACT", {"artifact": name})
    assert (nowhere[1], nowhere[2]["path"], nowhere[2]["rule"]) == ("INVALID_TOOL_INPUT", "text", "artifact")


async def test_a_tool_reads_and_saves_artifacts_by_its_context(service: Service) -> None:
    kept = await upload(service, b"quiet")
    result = await service.run("loud", part_pb2.Part(artifact=kept.name))

    (part,) = result.result
    assert (part.WhichOneof("content"), part.media_type, part.filename) == (
        "artifact",
        "text/markdown",
        "loud.md",
    )
    assert await download(service, part.artifact) == b"QUIET"


async def test_another_tenants_artifact_is_no_input(service: Service) -> None:
    kept = await upload(service, PNG + b"mine")
    request = agent_pb.DispatchRequest(
        tool="tools/shrink", payload=[part_pb2.Part(artifact=kept.name, name="photo")]
    )

    assert (await failure(service.agent("blue").Dispatch(request)))[1] == "UNKNOWN_ARTIFACT"


async def test_content_inside_a_result_becomes_parts_of_its_own(service: Service) -> None:
    pair = await service.run("collage", count=2)
    stamp = await service.run("stamp", text="hello")

    assert [(part.media_type, len(part.inline_bytes)) for part in pair.result] == [("image/png", 608)] * 2
    plain, picture = stamp.result
    assert dict(plain.json) == {"text": "hello"}
    assert (picture.name, picture.media_type, picture.inline_bytes) == ("picture", "image/png", PNG)


async def items(service: Service, tool: str, **arguments: Any) -> list[part_pb2.Part]:
    struct = Struct()
    struct.update(arguments)
    request = agent_pb.DispatchStreamRequest(tool=f"tools/{tool}", payload=[part_pb2.Part(json=struct)])
    stream = service.agent().DispatchStream(request)
    return [event.item.parts[0] async for event in stream if event.HasField("item")]


async def test_items_of_a_stream_become_artifacts_as_results_do(service: Service) -> None:
    small, large = await items(service, "make_pieces", sizes=[100, 9 * MIB + 1])

    [kept] = await items(service, "keep_pieces", texts=["hello"])

    assert (100, "") == (len(small.inline_bytes), small.artifact)
    assert ("image/png", "piece.png") == (large.media_type, large.filename)
    assert 9 * MIB + 1 == len(await download(service, large.artifact))
    assert ("text/plain", "piece.txt") == (kept.media_type, kept.filename)


async def test_a_result_beyond_the_inline_limit_becomes_an_artifact(service: Service) -> None:
    result = await service.run("make_large", size=9 * MIB)

    (part,) = result.result
    assert part.WhichOneof("content") == "artifact"
    assert (part.media_type, part.filename) == ("image/png", "large.png")
    data = await download(service, part.artifact)
    assert (len(data), data[:8]) == (9 * MIB, PNG[:8])
    kept = await service.artifacts().GetArtifact(pb.GetArtifactRequest(name=part.artifact))
    assert kept.artifact.filename == "large.png"


async def test_a_json_result_beyond_the_answers_limit_becomes_an_artifact(service: Service) -> None:
    result = await service.run("make_rows", count=150)

    (part,) = result.result
    assert (part.WhichOneof("content"), part.media_type) == ("artifact", "application/json")
    assert json.loads(await download(service, part.artifact)) == {"result": ["x" * (64 << 10)] * 150}


async def test_uploads_are_counted_and_one_that_stalls_is_dropped(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path)
    settings = AgentSettings(
        **mesh.service_kwargs("agent"),
        model_store_url=f"file://{tmp_path / 'store'}",
        model_trusted_keys=(tmp_path,),
    )
    objects = ObjectStore.open(settings.model_store_url)
    store = StoredArtifacts(objects, ArtifactPolicy(max_uploads=2))
    servicer = ArtifactServicer(store, stall=timedelta(seconds=2))
    registration = (pb_grpc.add_ArtifactServiceServicer_to_server, servicer)
    async with serving(settings, name="agent", add=[registration]) as server:
        service = Service(mesh, server.port)
        begun = asyncio.Event()

        async def stalling() -> AsyncIterator[pb.UploadArtifactRequest]:
            yield pb.UploadArtifactRequest(content=HttpBody(data=b"the beginning"))
            await asyncio.sleep(0.5)  # else another upload may have the only place when this arrives
            begun.set()
            await asyncio.Event().wait()

        stalled = asyncio.ensure_future(failure(service.artifacts().UploadArtifact(stalling())))
        await begun.wait()
        async with asyncio.timeout(60):
            refused = await failure(refused_upload(service))
        again = await stalled
        kept = await upload(service, b"now there is room")
        await asyncio.gather(*(channel.close() for channel in service.channels))

    assert refused == (
        ErrorKind.RESOURCE_EXHAUSTED,
        "TOO_MANY_UPLOADS",
        {"max_uploads": "2", "scope": "replica"},
    )
    assert again == (ErrorKind.DEADLINE_EXCEEDED, "UPLOAD_STALLED", {"stall_s": "2"})
    assert len(await objects.list("default/artifacts/records")) == 1
    assert kept.media_type == "text/plain"


async def refused_upload(service: Service) -> None:
    """Upload until there is no room: the first upload may not have arrived yet."""
    while True:
        await upload(service, b"too many")
        await service.artifacts().DeleteArtifact(
            pb.DeleteArtifactRequest(name=f"artifacts/{hashlib.sha256(b'too many').hexdigest()}")
        )
