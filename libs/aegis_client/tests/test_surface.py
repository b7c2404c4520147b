from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aegis.fl.v1 import training_service_pb2 as fl
from aegis_client import (
    Action,
    AsyncClient,
    Client,
    NotFound,
    Part,
    ToolResult,
    UsageError,
    last_trace_id,
    tracing,
)

if TYPE_CHECKING:
    from libs.aegis_client.tests.conftest import Deployment

GROUPS = (
    "tools",
    "carbon",
    "reservations",
    "training",
    "models",
    "publisher_keys",
    "nodes",
    "training_apps",
    "artifacts",
)


def surface(client: object) -> dict[str, str]:
    """Return every call of a client with its parameters."""
    return {
        f"{group}.{name}": str(inspect.signature(call).replace(return_annotation=inspect.Signature.empty))
        for group in GROUPS
        for name, call in inspect.getmembers(getattr(client, group), callable)
        if not name.startswith("_")
    }


def test_both_clients_have_the_same_surface() -> None:
    here: dict[str, Any] = {"address": "localhost:1", "token": "x"}

    assert surface(Client(**here)) == surface(AsyncClient(**here))


def test_a_call_is_documented_like_a_method() -> None:
    run = Client(address="localhost:1").tools.run

    assert run.__name__ == "run"
    assert list(inspect.signature(run).parameters) == [
        "name",
        "arguments",
        "parts",
        "files",
        "timeout",
        "priority",
    ]
    assert "TOOL_TIMEOUT" in (run.__doc__ or "")


def test_a_list_goes_through_all_pages(deployment: Deployment) -> None:
    with deployment.client() as client:
        names = [tool.name for tool in client.tools.list(page_size=2)]

    assert names == ["tools/t0", "tools/t1", "tools/t2", "tools/t3", "tools/t4"]
    assert len(deployment.calls("ListTools")) == 3


def test_a_tool_comes_with_schema_and_limits(deployment: Deployment) -> None:
    with deployment.client() as client:
        tool = client.tools.get("echo")

    assert tool.name == "tools/echo"
    assert tool.input_schema == {"type": "object", "maxProperties": 3}
    assert tool.default_timeout == timedelta(seconds=9)
    assert tool.max_timeout is None


def test_a_tool_gets_json_raw_bytes_and_files(deployment: Deployment, tmp_path: Path) -> None:
    image = tmp_path / "cat.png"
    image.write_bytes(b"\x89PNG")

    with deployment.client() as client:
        result = client.tools.run(
            "echo",
            {"count": 3, "nested": {"list": [1.5, None, True]}, "raw": b"\x00"},
            files={"image": image, "mask": b"\x01"},
            parts=[Part(text="hello")],
        )

    assert result.parts == (
        Part(json={"count": 3, "nested": {"list": [1.5, None, True]}}),
        Part(data=b"\x00", name="raw"),
        Part(data=b"\x89PNG", name="image", media_type="image/png", filename="cat.png"),
        Part(data=b"\x01", name="mask"),
        Part(text="hello"),
    )
    assert result.value["image"] == b"\x89PNG"
    assert result.warnings == ("an echo",)


def test_the_value_of_one_part_is_its_content(deployment: Deployment) -> None:
    with deployment.client() as client:
        result = client.tools.run("tools/echo", {"a": 1})

    assert result.value == {"a": 1}


def test_a_batch_gives_a_result_or_an_error_for_each_action(deployment: Deployment) -> None:
    with deployment.client() as client:
        good, bad = client.tools.batch([Action(tool="echo", arguments={"a": 1}), Action(tool="nope")])

    assert isinstance(good, ToolResult)
    assert good.value == {"a": 1}
    assert isinstance(bad, NotFound)
    assert (bad.reason, bad.metadata) == ("UNKNOWN_TOOL", {"tool": "tools/nope"})
    assert bad.trace_id == last_trace_id()


def test_a_decision_is_true_when_work_may_start(deployment: Deployment) -> None:
    with deployment.client() as client:
        now, wait = client.carbon.check("GB"), client.carbon.check("GB", max_intensity=100, on_missing="wait")
        missing = client.carbon.check("zones/XX")

    assert now
    assert now.intensity is not None
    assert (now.intensity.source, now.intensity.age) == ("replay", timedelta(seconds=5))
    assert now.intensity.start_time == datetime(2025, 6, 15, 15, 6, 40, tzinfo=UTC)
    assert now.intensity.end_time is None
    assert not wait
    assert (wait.reason, wait.retry_after) == ("ABOVE_THRESHOLD", timedelta(seconds=60))
    assert missing.intensity is None
    assert not deployment.carbon.checks[0].HasField("max_intensity_g_per_kwh")


def test_zones_and_their_intensity(deployment: Deployment) -> None:
    with deployment.client() as client:
        zone = next(client.carbon.zones())
        intensity = client.carbon.intensity(zone.name)

    assert (zone.providers, zone.default) == (("uk", "replay"), True)
    assert (intensity.g_per_kwh, intensity.quality, intensity.signal) == (120, "ACTUAL", "AVERAGE")


def test_a_run_is_created_with_everything_that_was_asked_for(deployment: Deployment) -> None:
    with deployment.client() as client:
        run = client.training.create(
            "digits",
            rounds=3,
            model="digits",
            zone="GB",
            max_intensity=90,
            max_wait=30,
            config={"lr": 0.1},
            strategy="Krum",
            parameters={"num_malicious_nodes": 1},
            fraction=0.5,
            quorum=5,
            round_timeout=90,
            max_update_ratio=0,
            seed=0,
            engine="in_process",
            virtual_nodes=10,
            evaluation="central",
            node_zones=["GB"],
            retention=86400,
            node_labels={"scanner": "mri"},
        )
        cancelled = client.training.cancel(run.name)

    sent = deployment.training.created[0]
    assert (run.state, run.ended, run.trace_id) == ("PENDING", False, "a" * 32)
    assert (cancelled.state, cancelled.ended, cancelled.succeeded) == ("CANCELLED", True, False)
    assert sent.training_run.model == "models/digits"
    assert sent.training_run.carbon_policy.zone == "zones/GB"
    assert sent.training_run.carbon_policy.max_wait.seconds == 30
    assert sent.training_run.app_config["lr"] == 0.1
    assert sent.training_run.engine == fl.TrainingRun.ENGINE_IN_PROCESS
    assert (sent.training_run.virtual_nodes, sent.training_run.seed) == (10, 0)
    assert sent.training_run.HasField("seed")
    assert sent.training_run.evaluation == fl.TrainingRun.EVALUATION_CENTRAL
    assert sent.training_run.retention.seconds == 86400
    assert sent.training_run.node_selector == fl.NodeSelector(zones=["zones/GB"], labels={"scanner": "mri"})
    asked = fl.Aggregation(strategy="Krum", fraction=0.5, quorum=5, max_update_ratio=0)
    asked.parameters["num_malicious_nodes"] = 1
    asked.round_timeout.FromSeconds(90)
    assert sent.training_run.aggregation == asked
    assert len(sent.request_id) == 36


def test_models_are_published_and_promoted(deployment: Deployment) -> None:
    with deployment.client() as client:
        published = client.models.publish("digits", "v3", sha256="c" * 64, aliases=["candidate"])
        model = client.models.promote("digits", published.version)
        versions = [item.version for item in client.models.versions("digits")]

    assert (published.version, published.aliases) == ("v3", ("candidate",))
    assert model.aliases == {"production": "v3"}
    assert versions == ["v2", "v1"]


def test_tool_files_are_put_listed_read_and_removed(deployment: Deployment, tmp_path: Path) -> None:
    (tmp_path / "shout.py").write_bytes(b"code")
    with deployment.client() as client:
        put = client.tools.put_file(tmp_path / "shout.py")
        client.tools.put_file(tmp_path / "shout.py", name="other")
        listed = [item.name for item in client.tools.files()]
        read = client.tools.file("shout.py")
        gone = client.tools.remove_file("shout")

    assert (put.name, put.tools, put.size_bytes, put.creator) == (
        "toolFiles/shout", ("tools/shout",), 4, "ann",
    )  # fmt: skip
    assert [(item.replica, item.state, item.live) for item in put.replicas] == [
        ("agent-1", "LIVE", True), ("agent-2", "REFUSED", False),
    ]  # fmt: skip
    assert listed == ["toolFiles/other", "toolFiles/shout"]
    assert (read.source, put.source) == (b"code", None)
    assert gone == put.replicas
    assert list(deployment.tool_files.sources) == ["toolFiles/other"]


def test_nodes_are_registered_and_removed(deployment: Deployment) -> None:
    with deployment.client() as client:
        node = client.nodes.register("site-1", "PEM", zone="GB", labels={"scanner": "mri"})
        listed = list(client.nodes.list())
        client.nodes.remove("site-1")

        assert (node.name, node.zone, node.state) == ("nodes/site-1", "zones/GB", "REGISTERED")
        assert listed == [node]
        assert list(client.nodes.list()) == []


async def test_the_async_client_awaits_the_same_calls(deployment: Deployment, tmp_path: Path) -> None:
    image = tmp_path / "cat.png"
    image.write_bytes(b"\x89PNG")

    async with AsyncClient(deployment.profile()) as client:
        names = [tool.name async for tool in client.tools.list()]
        result = await client.tools.run("echo", files={"image": image})
        decision = await client.carbon.check("GB")
        with pytest.raises(NotFound):
            await client.tools.run("nope")

    assert len(names) == 5
    assert result.value == b"\x89PNG"
    assert decision


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"id": 2**60}, "arguments.id"),
        ({"a": [{"b": b"raw"}]}, "arguments.a[0].b"),
        ({"when": datetime(2025, 1, 1, tzinfo=UTC)}, "arguments.when"),
    ],
)
def test_a_value_that_json_cannot_carry_is_refused_by_name(arguments: dict[str, object], fault: str) -> None:
    with pytest.raises(UsageError, match=fault.replace("[", r"\[")):
        Client(address="localhost:1").tools.run("echo", arguments)


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        (lambda client: client.training.create("digits", rounds=10**12), "cannot be sent: .*1000000000000"),
        (lambda client: client.training.create("digits", engine="cloud"), "engine 'cloud' is not one of dep"),
        (lambda client: client.tools.run("echo", {"text": "\ud800"}), "cannot be sent: .*surrogates"),
        (lambda client: client.tools.run("echo", {"a": nested(60)}), "nested too deeply"),
        (lambda client: client.tools.run("echo", timeout=-3), "timeout -3 is not"),
        (lambda client: client.tools.batch([Action(tool="echo", timeout=0)]), "timeout 0 is not"),
        (lambda client: client.carbon.check("GB", timeout=math.nan), "timeout nan is not"),
        (lambda client: next(client.training.watch("r", timeout=-1)), "timeout -1 is not"),
    ],
)
def test_a_value_that_cannot_be_sent_is_a_usage_error(call: Callable[[Client], object], fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        call(Client(address="localhost:1"))


def nested(depth: int) -> object:
    return [nested(depth - 1)] if depth else 1


def test_calls_in_a_block_share_one_trace(deployment: Deployment) -> None:
    with deployment.client() as client:
        with tracing() as trace_id:
            client.carbon.check("GB")
            client.carbon.check("GB")
        client.carbon.check("GB")

    sent = [call["traceparent"].split("-") for call in deployment.calls("CheckSchedule")]
    assert [parts[1] for parts in sent[:2]] == [trace_id, trace_id]
    assert sent[0][2] != sent[1][2]
    assert sent[2][1] == last_trace_id() != trace_id
