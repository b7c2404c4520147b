"""The agent over real mutual TLS: every rpc, its errors with reasons, and deadlines that reach the tool."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from PIL import Image, ImageDraw, ImageFont

from aegis.agent.v1 import agent_service_pb2 as pb
from aegis.agent.v1 import agent_service_pb2_grpc as pb_grpc
from aegis.agent.v1 import model_service_pb2 as model_pb
from aegis.agent.v1 import model_service_pb2_grpc as model_pb_grpc
from aegis.agent.v1 import part_pb2
from aegis_agent.main import running
from aegis_agent.settings import AgentSettings
from aegis_common.errors import ErrorKind
from aegis_common.pki import new_ed25519, public_key_pem
from aegis_common.rpc.channel import mesh_channel
from aegis_common.rpc.errors import details_of, from_status
from aegis_common.signing import Signer, TrustedKeys
from aegis_common.store.models import ModelStore
from aegis_common.store.objects import ObjectStore
from aegis_common.testing.pki import Mesh

NAMES = ("add", "spin", "crash", "slow", "make_bytes", "join", "double")
EXTRA_TOOLS = (
    *(f"aegis_agent.testing.tools:{name}" for name in NAMES),
    "zeros=aegis_agent.testing.tools:make_zeros",
)


pytestmark = pytest.mark.asyncio(loop_scope="module")


class Stack:
    """A running agent, its store, and stubs by account."""

    def __init__(self, mesh: Mesh, port: int, store: ModelStore) -> None:
        self.mesh = mesh
        self.port = port
        self.store = store
        self._channels: list[grpc.aio.Channel] = []

    def agent(self, account: str = "sdk") -> pb_grpc.AgentServiceAsyncStub:
        return pb_grpc.AgentServiceStub(self._channel(account))

    def models(self, account: str = "sdk") -> model_pb_grpc.ModelServiceAsyncStub:
        return model_pb_grpc.ModelServiceStub(self._channel(account))

    def _channel(self, account: str) -> grpc.aio.Channel:
        target = f"127.0.0.1:{self.port}"
        self._channels.append(mesh_channel(target, service="agent", tls=self.mesh.tls(account)))
        return self._channels[-1]

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    folder = tmp_path_factory.mktemp("agent")
    mesh = Mesh(folder)
    mesh.write_identities(
        {mesh.spiffe_id("blue"): {"tenant": "blue", "roles": ["operator"], "via_gateway": True}}
    )
    key = new_ed25519(folder / "signing.key")
    trusted = folder / "signing.pem"
    trusted.write_bytes(public_key_pem(key))
    url = f"file://{folder / 'store'}"
    settings = AgentSettings(
        **mesh.service_kwargs("agent"),
        model_store_url=url,
        model_trusted_keys=(trusted,),
        tools=EXTRA_TOOLS,
        plugins=False,
        warm_up=False,
    )
    store = ModelStore(ObjectStore.open(url), Signer(key), TrustedKeys())
    async with running(settings) as server:
        made = Stack(mesh, server.port, store)
        yield made
        await made.close()


def action(tool: str, *parts: part_pb2.Part, **arguments: Any) -> pb.DispatchRequest:
    payload = list(parts)
    if arguments:
        struct = Struct()
        struct.update(arguments)
        payload.append(part_pb2.Part(json=struct))
    return pb.DispatchRequest(tool=f"tools/{tool}", payload=payload)


async def failure(call: Awaitable[Any]) -> tuple[ErrorKind, str, dict[str, str]]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    details = details_of(caught.value)
    return details.kind, details.reason, details.metadata


async def test_tools_are_listed_by_name_and_page(stack: Stack) -> None:
    agent = stack.agent("viewer")
    whole = await agent.ListTools(pb.ListToolsRequest())
    first = await agent.ListTools(pb.ListToolsRequest(page_size=7))
    rest = await agent.ListTools(pb.ListToolsRequest(page_size=7, page_token=first.next_page_token))

    names = [tool.name for tool in whole.tools]
    assert names == sorted(names)
    assert {"tools/echo", "tools/image_ocr", "tools/detect_language", "tools/zeros"} <= set(names)
    assert [tool.name for tool in (*first.tools, *rest.tools)] == names
    assert (len(first.tools), rest.next_page_token, whole.next_page_token) == (7, "", "")
    assert (await failure(agent.ListTools(pb.ListToolsRequest(page_token="junk"))))[1] == "INVALID_PAGE_TOKEN"


async def test_a_tool_tells_its_schemas_and_limits(stack: Stack) -> None:
    tool = (await stack.agent("viewer").GetTool(pb.GetToolRequest(name="tools/double"))).tool

    assert MessageToDict(tool) == {
        "name": "tools/double",
        "description": "Doubles.",
        "version": "2.1.0",
        "inputSchema": {
            "type": "object",
            "properties": {"value": {"type": "integer"}},
            "required": ["value"],
            "additionalProperties": False,
        },
        "outputSchema": {"type": "integer"},
        "defaultTimeout": "30s",
        "maxTimeout": "600s",
        "concurrency": 3,
        "queueSize": 16,
        "idempotent": True,
    }
    unknown = await failure(stack.agent().GetTool(pb.GetToolRequest(name="tools/duoble")))
    assert unknown == (ErrorKind.NOT_FOUND, "UNKNOWN_TOOL", {"tool": "duoble", "near": "double"})


async def test_results_come_as_parts_of_their_kind(stack: Stack) -> None:
    agent = stack.agent()
    text = await agent.Dispatch(action("echo", part_pb2.Part(text="hello")))
    number = await agent.Dispatch(action("add", a=1, b=2))
    raw = await agent.Dispatch(action("join", part_pb2.Part(inline_bytes=b"\xff"), part_pb2.Part(text="x")))

    assert text.result[0].text == "hello"
    assert MessageToDict(number.result[0].json) == {"result": 3}
    assert raw.result[0].inline_bytes == b"\xffx"
    assert (text.tool, text.tool_version, text.model_version) == ("tools/echo", "1.0.0", "")
    assert number.execution_time.ToTimedelta().total_seconds() > 0


async def test_ocr_and_language_work_on_real_bytes(stack: Stack) -> None:
    agent = stack.agent()
    picture = part_pb2.Part(inline_bytes=rendered("Guten Morgen zusammen"), media_type="image/png")
    read = await agent.Dispatch(action("image_ocr", picture), timeout=90)
    text = MessageToDict(read.result[0].json)["text"]
    language = await agent.Dispatch(action("detect_language", part_pb2.Part(text=text)), timeout=90)

    assert text.split() == ["Guten", "Morgen", "zusammen"]
    assert MessageToDict(language.result[0].json)["language"] == "de"


async def test_errors_have_reason_and_metadata(stack: Stack) -> None:
    agent = stack.agent()

    assert await failure(agent.Dispatch(action("ad", a=1))) == (
        ErrorKind.NOT_FOUND, "UNKNOWN_TOOL", {"tool": "ad", "near": "add"},
    )  # fmt: skip
    assert await failure(agent.Dispatch(action("add", a="one"))) == (
        ErrorKind.INVALID_ARGUMENT, "INVALID_TOOL_INPUT", {"tool": "add", "path": "a", "rule": "type"},
    )  # fmt: skip
    assert (await failure(agent.Dispatch(action("crash"))))[:2] == (ErrorKind.ABORTED, "TOOL_CRASHED")
    assert (await failure(agent.Dispatch(pb.DispatchRequest(tool="nothing"))))[
        0
    ] == ErrorKind.INVALID_ARGUMENT


@pytest.mark.long
async def test_an_answer_that_no_message_can_hold_is_refused(stack: Stack) -> None:
    # 1.7 MB of JSON zeros are over 9 MB as a Struct
    found = await failure(stack.agent().Dispatch(action("zeros", count=850_000), timeout=60))

    assert found[:2] == (ErrorKind.RESOURCE_EXHAUSTED, "TOOL_OUTPUT_TOO_LARGE")


async def test_more_than_eight_mebibytes_of_input_are_refused(stack: Stack) -> None:
    half = part_pb2.Part(name="data", inline_bytes=bytes((4 << 20) + 1))
    other = part_pb2.Part(name="extra", inline_bytes=bytes(4 << 20))

    assert (await failure(stack.agent().Dispatch(action("join", half, other), timeout=60)))[1:] == (
        "INVALID_TOOL_INPUT", {"tool": "join", "path": "payload", "rule": "maxBytes"},
    )  # fmt: skip


async def test_the_bound_on_input_holds_for_a_batch_as_a_whole(stack: Stack) -> None:
    half = action("join", part_pb2.Part(inline_bytes=bytes((4 << 20) + 1)))
    batch = pb.BatchDispatchRequest(requests=[half, half])

    assert (await failure(stack.agent().BatchDispatch(batch, timeout=60)))[1] == "INVALID_ARGUMENT"


async def test_the_timeout_of_the_request_kills_the_tool(
    stack: Stack, tmp_path: Path, is_alive: Callable[[int], bool], wait_until: Callable[..., Awaitable[None]]
) -> None:
    agent, pid_file = stack.agent(), tmp_path / "pid"
    await agent.Dispatch(action("slow", seconds=0))
    request = action("spin", pid_file=str(pid_file))
    request.timeout.FromSeconds(2)

    kind, reason, metadata = await failure(agent.Dispatch(request))

    assert (kind, reason, metadata["timeout_s"]) == (ErrorKind.DEADLINE_EXCEEDED, "TOOL_TIMEOUT", "2")
    await wait_until(lambda: not is_alive(int(pid_file.read_text())))


async def test_the_deadline_of_the_call_kills_the_tool_and_the_reason_still_arrives(
    stack: Stack, tmp_path: Path, is_alive: Callable[[int], bool], wait_until: Callable[..., Awaitable[None]]
) -> None:
    agent, pid_file = stack.agent(), tmp_path / "pid"
    await agent.Dispatch(action("slow", seconds=0))

    found = await failure(agent.Dispatch(action("spin", pid_file=str(pid_file)), timeout=3))

    assert found[:2] == (ErrorKind.DEADLINE_EXCEEDED, "TOOL_TIMEOUT")
    await wait_until(lambda: not is_alive(int(pid_file.read_text())))


async def test_a_cancelled_call_kills_the_tool(
    stack: Stack, tmp_path: Path, is_alive: Callable[[int], bool], wait_until: Callable[..., Awaitable[None]]
) -> None:
    pid_file = tmp_path / "pid"
    call = stack.agent().Dispatch(action("spin", pid_file=str(pid_file)))
    waiting = asyncio.ensure_future(call)
    await wait_until(lambda: pid_file.exists() and bool(pid_file.read_text()))

    call.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    await wait_until(lambda: not is_alive(int(pid_file.read_text())))


async def test_a_batch_has_one_outcome_each_in_order(stack: Stack) -> None:
    late = action("spin")
    late.timeout.FromMilliseconds(1500)
    request = pb.BatchDispatchRequest(
        requests=[
            action("add", a=1),
            action("crash"),
            late,
            action("nothing"),
            action("echo", part_pb2.Part(text="x")),
        ],
        concurrency=5,
    )

    outcomes = (await stack.agent().BatchDispatch(request, timeout=60)).outcomes

    shown = [
        from_status(item.error).reason if item.HasField("error") else MessageToDict(item.response.result[0])
        for item in outcomes
    ]
    assert shown == [{"json": {"result": 2}}, "TOOL_CRASHED", "TOOL_TIMEOUT", "UNKNOWN_TOOL", {"text": "x"}]


async def test_a_batch_whose_results_are_too_many_bytes_keeps_the_first(stack: Stack) -> None:
    request = pb.BatchDispatchRequest(
        requests=[action("make_bytes", size=5 << 20)] * 2 + [action("add", a=1)]
    )

    outcomes = (await stack.agent().BatchDispatch(request, timeout=60)).outcomes

    assert len(outcomes[0].response.result[0].inline_bytes) == 5 << 20
    assert from_status(outcomes[1].error).reason == "TOOL_OUTPUT_TOO_LARGE"
    assert outcomes[2].HasField("response")


async def test_an_empty_batch_is_refused_as_a_whole(stack: Stack) -> None:
    assert (await failure(stack.agent().BatchDispatch(pb.BatchDispatchRequest())))[
        0
    ] is ErrorKind.INVALID_ARGUMENT


async def test_a_viewer_may_look_and_not_run(stack: Stack) -> None:
    assert (await failure(stack.agent("viewer").Dispatch(action("add", a=1))))[
        0
    ] is ErrorKind.PERMISSION_DENIED


async def test_a_model_is_published_served_and_moved(stack: Stack, make_linear: Callable[..., bytes]) -> None:
    models, agent = stack.models(), stack.agent()
    digests = {}
    for version, shift in (("v1", 0), ("v2", 1)):
        manifest = await stack.store.publish(
            "default",
            "colours",
            version,
            make_linear(shift=shift),
            format="onnx",
            provenance={"domain": "rows"},
        )
        digests[version] = manifest.sha256
    rows = action("colours", input=[[1, 0, 0, 0]])

    first = await models.PublishModelVersion(publishing("v1", digests["v1"], "production"))
    before = await agent.Dispatch(rows)
    await models.PublishModelVersion(publishing("v2", digests["v2"]))
    moved = await models.SetAlias(
        model_pb.SetAliasRequest(model="models/colours", alias="production", version="v2")
    )
    after = await agent.Dispatch(rows)
    versions = await models.ListModelVersions(
        model_pb.ListModelVersionsRequest(parent="models/colours", page_size=1)
    )
    older = await models.ListModelVersions(
        model_pb.ListModelVersionsRequest(
            parent="models/colours", page_size=1, page_token=versions.next_page_token
        )
    )
    listed = await models.ListModels(model_pb.ListModelsRequest())
    found = await models.GetModel(model_pb.GetModelRequest(name="models/colours"))
    tool = (await agent.GetTool(pb.GetToolRequest(name="tools/colours"))).tool

    assert (first.model_version.name, list(first.model_version.aliases)) == (
        "models/colours/versions/v1", ["production"],
    )  # fmt: skip
    assert (first.model_version.sha256, first.model_version.format) == (digests["v1"], "onnx")
    assert MessageToDict(before.result[0].json) == {"scores": [[1, 0, 0]], "labels": [0]}
    assert (before.model_version, list(before.warnings)) == (
        "models/colours/versions/v1", ["domain of the model: rows"],
    )  # fmt: skip
    assert MessageToDict(after.result[0].json)["labels"] == [1]
    assert after.model_version == "models/colours/versions/v2"
    assert (dict(moved.model.aliases), moved.model.tool) == ({"production": "v2"}, "tools/colours")
    assert [versions.model_versions[0].name, older.model_versions[0].name] == [
        "models/colours/versions/v2", "models/colours/versions/v1",
    ]  # fmt: skip
    assert found.model == moved.model
    assert moved.model in listed.models
    assert (tool.model, tool.version) == ("models/colours", "v2")


def publishing(
    version: str, sha256: str, *aliases: str, model: str = "colours"
) -> model_pb.PublishModelVersionRequest:
    return model_pb.PublishModelVersionRequest(
        parent=f"models/{model}", version=version, sha256=sha256, aliases=aliases
    )


async def test_a_model_is_unknown_to_another_tenant(stack: Stack, make_linear: Callable[..., bytes]) -> None:
    manifest = await stack.store.publish(
        "default", "private", "v1", make_linear(), format="onnx", provenance={}
    )
    await stack.models().PublishModelVersion(publishing("v1", manifest.sha256, "production", model="private"))

    blue = stack.agent("blue")
    names = [tool.name for tool in (await blue.ListTools(pb.ListToolsRequest())).tools]
    refused = await failure(blue.Dispatch(action("private", input=[[1, 0, 0, 0]])))

    assert "tools/private" not in names
    assert refused[1] == "UNKNOWN_TOOL"
    assert not (await stack.models("blue").ListModels(model_pb.ListModelsRequest())).models


async def test_publishing_says_what_is_wrong(stack: Stack, make_linear: Callable[..., bytes]) -> None:
    models = stack.models()
    junk = await stack.store.publish("default", "junk", "v1", b"junk", format="onnx", provenance={})
    echo = await stack.store.publish("default", "echo", "v1", make_linear(), format="onnx", provenance={})

    assert (await failure(models.PublishModelVersion(publishing("v1", junk.sha256, model="junk"))))[:2] == (
        ErrorKind.FAILED_PRECONDITION, "MODEL_NOT_LOADABLE",
    )  # fmt: skip
    assert (await failure(models.PublishModelVersion(publishing("v1", "0" * 64, model="junk"))))[
        1
    ] == "MODEL_DIGEST_MISMATCH"
    assert (await failure(models.PublishModelVersion(publishing("v9", "0" * 64, model="junk"))))[:2] == (
        ErrorKind.NOT_FOUND, "MODEL_VERSION_NOT_IN_STORE",
    )  # fmt: skip
    assert (await failure(models.PublishModelVersion(publishing("v1", echo.sha256, model="echo"))))[:2] == (
        ErrorKind.ALREADY_EXISTS, "TOOL_NAME_TAKEN",
    )  # fmt: skip
    assert (await failure(models.GetModel(model_pb.GetModelRequest(name="models/junk"))))[
        1
    ] == "UNKNOWN_MODEL"


def rendered(text: str) -> bytes:
    image = Image.new("RGB", (40 + 24 * len(text), 400), "white")
    ImageDraw.Draw(image).text((20, 20), text, fill="black", font=ImageFont.load_default(size=40))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
