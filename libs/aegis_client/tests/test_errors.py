from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

import grpc
import pytest

import aegis_client
from aegis_client import (
    AegisApiError,
    AsyncClient,
    Cancelled,
    Client,
    DeadlineExceeded,
    FailedPrecondition,
    NotFound,
    Part,
    RetryPolicy,
    Unavailable,
    UsageError,
)
from aegis_common.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from libs.aegis_client.tests.conftest import Deployment


def failure(kind: ErrorKind, **details: object) -> AegisError:
    class Failure(AegisError):
        reason: ClassVar[str] = "SOME_REASON"

    Failure.kind = kind
    return Failure("value 7 is wrong", value="7", **details)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [kind for kind in ErrorKind if kind is not ErrorKind.UNAVAILABLE])
def test_each_kind_of_error_has_a_class(deployment: Deployment, kind: ErrorKind) -> None:
    deployment.faults.orders["CheckSchedule"] = [failure(kind)]
    name = "".join(word.title() for word in kind.value.split("_"))

    with deployment.client() as client, pytest.raises(AegisApiError) as caught:
        client.carbon.check("GB")

    assert type(caught.value) is getattr(aegis_client, name, AegisApiError)
    assert (caught.value.code, caught.value.reason) == (kind.name, "SOME_REASON")
    assert (caught.value.message, caught.value.metadata) == ("value 7 is wrong", {"value": "7"})
    assert deployment.calls("CheckSchedule")[0]["traceparent"].split("-")[1] == caught.value.trace_id


def test_violations_and_retry_time_come_with_the_error(deployment: Deployment) -> None:
    wrong = failure(ErrorKind.INVALID_ARGUMENT, violations={"payload[0].x": "must be a number"})
    full = failure(ErrorKind.RESOURCE_EXHAUSTED, retry_after=timedelta(seconds=7))
    deployment.faults.orders["Dispatch"] = [wrong, full]

    with deployment.client() as client:
        with pytest.raises(AegisApiError) as first:
            client.tools.run("echo")
        with pytest.raises(AegisApiError) as second:
            client.tools.run("echo")

    assert first.value.violations == {"payload[0].x": "must be a number"}
    assert second.value.retry_after == timedelta(seconds=7)


def test_an_answer_without_details_has_no_reason(deployment: Deployment) -> None:
    deployment.faults.orders["CheckSchedule"] = [grpc.StatusCode.PERMISSION_DENIED]

    with deployment.client() as client, pytest.raises(aegis_client.PermissionDenied) as caught:
        client.carbon.check("GB")

    assert (caught.value.reason, caught.value.message) == ("", "broken on the way")
    assert str(caught.value) == "broken on the way [PERMISSION_DENIED]"


def test_a_call_without_effects_is_sent_again_while_the_service_is_unavailable(
    deployment: Deployment,
) -> None:
    deployment.faults.orders["CheckSchedule"] = [grpc.StatusCode.UNAVAILABLE] * 3

    with deployment.client() as client:
        assert client.carbon.check("GB")

    calls = deployment.calls("CheckSchedule")
    assert len(calls) == 4
    assert len({call["traceparent"].split("-")[1] for call in calls}) == 1


def test_an_idempotent_change_is_sent_again(deployment: Deployment) -> None:
    deployment.faults.orders["SetAlias"] = [grpc.StatusCode.UNAVAILABLE]

    with deployment.client() as client:
        client.models.promote("digits", "v9")

    assert len(deployment.calls("SetAlias")) == 2


def test_retries_are_bounded(deployment: Deployment) -> None:
    deployment.faults.orders["CheckSchedule"] = [grpc.StatusCode.UNAVAILABLE] * 9

    with deployment.client() as client, pytest.raises(Unavailable):
        client.carbon.check("GB")

    assert len(deployment.calls("CheckSchedule")) == 4


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL])
def test_a_call_with_effects_is_never_sent_again(deployment: Deployment, code: grpc.StatusCode) -> None:
    deployment.faults.orders["Dispatch"] = [code] * 2

    with deployment.client() as client, pytest.raises(AegisApiError):
        client.tools.run("echo")

    assert len(deployment.calls("Dispatch")) == 1


def test_a_call_of_an_idempotent_tool_is_sent_again_when_the_connection_breaks(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment.agent, "idempotent", {"tools/echo"})
    deployment.faults.orders["Dispatch"] = [grpc.StatusCode.UNAVAILABLE] * 2
    deployment.faults.orders["GetTool"] = [grpc.StatusCode.UNAVAILABLE]

    with deployment.client() as client:
        assert "hi" == client.tools.run("echo", parts=[Part(text="hi")]).value
        asked = len(deployment.calls("GetTool"))
        with pytest.raises(NotFound):
            client.tools.run("nobody")

    assert (3, 2) == (len(deployment.calls("Dispatch")) - 1, asked)
    assert asked == len(deployment.calls("GetTool"))
    ids = {call["traceparent"].split("-")[1] for call in deployment.calls("GetTool")}
    assert ids == {deployment.calls("Dispatch")[0]["traceparent"].split("-")[1]}


def test_a_tool_of_which_nothing_is_known_is_not_run_again(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment.agent, "idempotent", {"tools/echo"})
    deployment.faults.orders["Dispatch"] = [grpc.StatusCode.UNAVAILABLE]
    deployment.faults.orders["GetTool"] = [failure(ErrorKind.PERMISSION_DENIED)]

    with deployment.client() as client, pytest.raises(Unavailable):
        client.tools.run("echo")

    assert 1 == len(deployment.calls("Dispatch"))


async def test_the_async_client_retries_in_the_same_way(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.faults.orders["CheckSchedule"] = [grpc.StatusCode.UNAVAILABLE] * 2
    deployment.faults.orders["Dispatch"] = [grpc.StatusCode.UNAVAILABLE]

    async with AsyncClient(deployment.profile(), retry=RetryPolicy(first_delay_s=0.01)) as client:
        decision = await client.carbon.check("GB")
        with pytest.raises(Unavailable):
            await client.tools.run("echo")
        monkeypatch.setattr(deployment.agent, "idempotent", {"tools/echo"})
        deployment.faults.orders["Dispatch"] = [grpc.StatusCode.UNAVAILABLE]
        await client.tools.run("echo")

    assert decision
    assert len(deployment.calls("CheckSchedule")) == 3
    assert len(deployment.calls("Dispatch")) == 3


def test_the_wait_that_a_service_asks_for_is_kept(deployment: Deployment) -> None:
    again = failure(ErrorKind.UNAVAILABLE, retry_after=timedelta(seconds=0.4))
    deployment.faults.orders["CheckSchedule"] = [again]
    start = time.monotonic()

    with deployment.client() as client:
        client.carbon.check("GB")

    assert time.monotonic() - start >= 0.4


def test_no_retry_is_begun_that_the_deadline_would_cut(deployment: Deployment) -> None:
    again = failure(ErrorKind.UNAVAILABLE, retry_after=timedelta(seconds=60))
    deployment.faults.orders["CheckSchedule"] = [again]

    with deployment.client() as client, pytest.raises(Unavailable) as caught:
        client.carbon.check("GB", timeout=5)

    assert caught.value.retry_after == timedelta(seconds=60)
    assert len(deployment.calls("CheckSchedule")) == 1


def test_the_deadline_reaches_the_service_and_stops_the_work(deployment: Deployment) -> None:
    deployment.agent.remaining.clear()

    with deployment.client() as client, pytest.raises(DeadlineExceeded) as caught:
        client.tools.run("sleep", timeout=0.1)

    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert 0.1 < deployment.agent.remaining[0] <= 2.2
    assert deployment.agent.cancelled.wait(20)


def test_a_call_without_a_timeout_gets_the_methods_own_deadline(deployment: Deployment) -> None:
    with deployment.client() as client:
        client.tools.run("echo")

    assert 20 < deployment.agent.remaining[0] <= 32.1


def test_nobody_listening_is_unavailable() -> None:
    with Client(address="127.0.0.1:9", retry=RetryPolicy(attempts=1)) as client, pytest.raises(Unavailable):
        client.carbon.check("GB", timeout=20)


def test_a_closed_client_refuses_calls(deployment: Deployment) -> None:
    client = deployment.client()
    client.carbon.check("GB")
    client.close()

    with pytest.raises(UsageError, match="closed"):
        client.carbon.check("GB")


def test_every_error_is_an_error_of_this_package() -> None:
    for name in aegis_client.__all__:
        value = getattr(aegis_client, name)
        if isinstance(value, type) and issubclass(value, Exception):
            assert issubclass(value, aegis_client.AegisClientError)
    assert issubclass(NotFound, AegisApiError)
    assert issubclass(FailedPrecondition, AegisApiError)
    assert issubclass(Cancelled, AegisApiError)
