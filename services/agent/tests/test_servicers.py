"""AgentService over mutual TLS: every rpc, its errors with reasons, and deadlines that reach the tool."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from google.protobuf.json_format import MessageToDict
from PIL import Image, ImageDraw, ImageFont
from services.agent.tests.agent_stack import Stack, action, failure, running_stack

from aegis.agent.v1 import agent_service_pb2 as pb
from aegis.agent.v1 import part_pb2
from aegis_common.errors import ErrorKind
from aegis_common.rpc.errors import from_status

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path_factory.mktemp("agent")) as made:
        yield made


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
        "concurrencyScope": "CONCURRENCY_SCOPE_REPLICA",
        "queueSize": 16,
        "idempotent": True,
        "priority": "PRIORITY_NORMAL",
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


async def test_a_tool_of_the_folder_streams_out_of_its_child(stack: Stack) -> None:
    agent = stack.agent()
    whole = action("countdown", start=2)
    streamed = pb.DispatchStreamRequest(tool=whole.tool, payload=whole.payload)
    events = [event async for event in agent.DispatchStream(streamed)]
    found = await agent.Dispatch(whole)
    tool = (await agent.GetTool(pb.GetToolRequest(name="tools/countdown"))).tool

    assert [event.WhichOneof("event") for event in events] == [
        "started", *["progress", "log", "item"] * 2, "result",
    ]  # fmt: skip
    assert MessageToDict(found.result[0].json) == {"result": [2, 1]}
    assert (tool.streams, list(tool.tags)) == (True, ["numbers"])


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
async def test_an_answer_that_no_message_can_hold_comes_as_an_artifact(stack: Stack) -> None:
    # 1.7 MB of JSON zeros are over 9 MB as a Struct
    (part,) = (await stack.agent().Dispatch(action("zeros", count=850_000), timeout=60)).result

    assert (part.WhichOneof("content"), part.media_type) == ("artifact", "application/json")


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

    found = await failure(agent.Dispatch(action("spin", pid_file=str(pid_file)), timeout=2))

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
    late.timeout.FromMilliseconds(500)
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


async def test_of_a_batch_whose_results_are_too_many_bytes_some_come_as_artifacts(stack: Stack) -> None:
    request = pb.BatchDispatchRequest(
        requests=[action("make_bytes", size=5 << 20)] * 2 + [action("add", a=1)]
    )

    outcomes = (await stack.agent().BatchDispatch(request, timeout=60)).outcomes

    assert len(outcomes[0].response.result[0].inline_bytes) == 5 << 20
    assert outcomes[1].response.result[0].artifact.startswith("artifacts/")
    assert MessageToDict(outcomes[2].response.result[0].json) == {"result": 2}


async def test_an_empty_batch_is_refused_as_a_whole(stack: Stack) -> None:
    assert (await failure(stack.agent().BatchDispatch(pb.BatchDispatchRequest())))[
        0
    ] is ErrorKind.INVALID_ARGUMENT


async def test_a_viewer_may_look_and_not_run(stack: Stack) -> None:
    assert (await failure(stack.agent("viewer").Dispatch(action("add", a=1))))[
        0
    ] is ErrorKind.PERMISSION_DENIED


def rendered(text: str) -> bytes:
    image = Image.new("RGB", (40 + 24 * len(text), 400), "white")
    ImageDraw.Draw(image).text((20, 20), text, fill="black", font=ImageFont.load_default(size=40))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
