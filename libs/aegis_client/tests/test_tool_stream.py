"""Streams of a tool: typed events, errors in place of the result, and an end that stops the work."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import grpc
import pytest

from aegis_client import (
    AsyncClient,
    NotFound,
    Part,
    ToolItem,
    ToolLog,
    ToolProgress,
    ToolResult,
    ToolStarted,
    Unavailable,
    UsageError,
)
from aegis_client.cli.app import run
from aegis_common.testing.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from libs.aegis_client.tests.conftest import Deployment

HANG_GUARD_S = 30.0


def test_events_are_typed_and_the_result_is_the_last(deployment: Deployment) -> None:
    with deployment.client() as client:
        events = list(
            client.tools.stream("echo", {"n": 1}, parts=[Part(text="hi")], timeout=5, priority="low")
        )

    started, progress, log, *items, result = events
    assert started == ToolStarted(tool="tools/echo", tool_version="1.0.0", queue_time=timedelta(seconds=1))
    assert progress == ToolProgress(done=1, total=2, message="half")
    assert log == ToolLog(level="WARNING", message="hot")
    assert [(item.index, item.value) for item in items if isinstance(item, ToolItem)] == [
        (0, {"n": 1}), (1, "hi"),
    ]  # fmt: skip
    assert isinstance(result, ToolResult)
    assert (result.tool, result.cached) == ("tools/echo", True)
    (sent,) = deployment.agent.streamed
    assert (sent.timeout.seconds, sent.priority) == (5, 1)


async def test_the_async_client_gives_the_same_events(deployment: Deployment) -> None:
    async with AsyncClient(deployment.profile()) as client:
        events = [event async for event in client.tools.stream("echo", {"n": 1})]

    assert [type(event) for event in events] == [ToolStarted, ToolProgress, ToolLog, ToolItem, ToolResult]


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE])
def test_a_stream_that_breaks_on_its_way_is_unavailable_whatever_a_proxy_calls_it(
    deployment: Deployment, code: grpc.StatusCode
) -> None:
    deployment.faults.orders["DispatchStream"] = [code]

    with deployment.client() as client, pytest.raises(Unavailable, match="broke"):
        list(client.tools.stream("echo"))


def test_an_error_on_the_way_is_raised_by_the_loop(deployment: Deployment) -> None:
    with deployment.client() as client:
        stream = client.tools.stream("stumble")
        events = [next(stream) for _ in range(3)]
        with pytest.raises(NotFound) as caught:
            next(stream)

    assert (len(events), caught.value.reason, caught.value.metadata) == (
        3, "UNKNOWN_TOOL", {"tool": "tools/stumble"},
    )  # fmt: skip
    assert len(caught.value.trace_id) == 32


def test_a_refusal_is_raised_before_any_event(deployment: Deployment) -> None:
    with deployment.client() as client, pytest.raises(NotFound):
        next(client.tools.stream("nobody"))


def test_a_stream_that_ends_without_a_result_is_broken_and_not_sent_again(deployment: Deployment) -> None:
    with deployment.client() as client, pytest.raises(Unavailable):
        list(client.tools.stream("break"))

    assert len(deployment.calls("DispatchStream")) == 1


async def test_leaving_the_loop_stops_the_work(deployment: Deployment) -> None:
    with deployment.client() as client:
        events = client.tools.stream("sleep")
        next(events)
        events.close()

        await until(deployment.agent.cancelled.is_set, timeout_s=HANG_GUARD_S)


@pytest.mark.parametrize("options", [{"priority": "urgent"}, {"timeout": 0}])
def test_what_cannot_be_sent_is_a_usage_error(deployment: Deployment, options: dict[str, object]) -> None:
    with deployment.client() as client, pytest.raises(UsageError):
        list(client.tools.stream("echo", **options))  # type: ignore[arg-type]  # that is the test


def test_the_command_line_shows_items_on_stdout_and_the_rest_on_stderr(
    profile_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(["--profile-file", str(profile_file), "tools", "run", "echo", "--stream", "--arg", "n=1"])
    shown = capsys.readouterr()

    assert (code, shown.out) == (0, '{"n": 1}\n')
    assert [line.split("  trace")[0] for line in shown.err.splitlines()] == [
        "started after 1 s", "1/2  half", "warning: hot", "echo 1.0.0  cached",
    ]  # fmt: skip


def test_the_command_line_prints_one_json_object_for_each_event(
    profile_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["tools", "run", "echo", "--stream", "--arg", "n=1", "-o", "json"]
    code = run(["--profile-file", str(profile_file), *line])
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    assert (code, [event["event"] for event in events]) == (
        0, ["started", "progress", "log", "item", "result"],
    )  # fmt: skip
    assert events[3]["parts"] == [{"json": {"n": 1}}]


def test_a_failure_on_the_way_ends_the_command_with_its_code(
    profile_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(["--profile-file", str(profile_file), "tools", "run", "stumble", "--stream"])

    assert (code, "it fell over" in capsys.readouterr().err) == (1, True)
