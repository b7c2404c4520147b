from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from aegis.fl.v1 import training_service_pb2 as fl
from aegis_client import AegisApiError, AsyncClient, Client, DeadlineExceeded, RetryPolicy, Unavailable
from aegis_common.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from libs.aegis_client.tests.conftest import Deployment
    from libs.aegis_client.tests.training_desk import Step

QUICK = RetryPolicy(first_delay_s=0.01, max_delay_s=0.02, stream_attempts=4)
RUN = fl.TrainingRun(name="trainingRuns/r1", rounds=3, state=fl.TrainingRun.STATE_RUNNING)
DONE = fl.TrainingRun(name="trainingRuns/r1", rounds=3, state=fl.TrainingRun.STATE_SUCCEEDED)


class RunLost(AegisError):
    kind = ErrorKind.INTERNAL
    reason = "RUN_LOST"


def state(token: str) -> fl.WatchTrainingRunResponse:
    return fl.WatchTrainingRunResponse(resume_token=token, state_change=RUN)


def round_done(token: str, number: int) -> fl.WatchTrainingRunResponse:
    gate = fl.GateDecision(clean=True, reason="BELOW_THRESHOLD", intensity_g_per_kwh=0, source="replay")
    done = fl.Round(number=number, metrics={"accuracy": 0.5}, node_results=3, gate=gate)
    return fl.WatchTrainingRunResponse(resume_token=token, round=done)


def end(token: str) -> fl.WatchTrainingRunResponse:
    return fl.WatchTrainingRunResponse(resume_token=token, end=DONE)


def reconnect(token: str) -> fl.WatchTrainingRunResponse:
    return fl.WatchTrainingRunResponse(resume_token=token, reconnect=fl.Reconnect())


def kinds(client: Client) -> list[str]:
    return [
        f"round {event.round.number}" if event.round else event.kind for event in client.training.watch("r1")
    ]


def test_a_watch_tells_everything_up_to_the_end(deployment: Deployment) -> None:
    deployment.training.scripts = [[state("1"), round_done("2", 1), end("3")]]

    with deployment.client() as client:
        events = list(client.training.watch("trainingRuns/r1"))

    assert [event.kind for event in events] == ["state", "round", "end"]
    assert events[0].run is not None
    assert events[0].run.state == "RUNNING"
    report = events[1].round
    assert report is not None
    assert report.gate is not None
    assert (report.metrics, report.node_results) == ({"accuracy": 0.5}, 3)
    assert (report.gate.intensity_g_per_kwh, report.gate.threshold_g_per_kwh) == (0.0, None)
    assert events[2].run is not None
    assert events[2].run.succeeded


@pytest.mark.parametrize(
    "break_",
    [
        pytest.param([reconnect("3")], id="the server asks to reconnect"),
        pytest.param([], id="the stream ends without a terminal event"),
        pytest.param([grpc.StatusCode.UNAVAILABLE], id="the service goes away"),
        pytest.param([grpc.StatusCode.INTERNAL], id="a proxy resets the stream"),
        pytest.param([grpc.StatusCode.DEADLINE_EXCEEDED], id="the stream reaches its longest time"),
    ],
)
def test_a_broken_watch_goes_on_where_it_was(deployment: Deployment, break_: list[Step]) -> None:
    first: list[Step] = [state("1"), round_done("2", 1), *break_]
    deployment.training.scripts = [first, [round_done("4", 2), end("5")]]

    with Client(deployment.profile(), retry=QUICK) as client:
        seen = kinds(client)

    asked_again = isinstance(first[-1], fl.WatchTrainingRunResponse) and first[-1].HasField("reconnect")
    assert seen == ["state", "round 1", "round 2", "end"]
    assert deployment.training.tokens == ["", "3" if asked_again else "2"]


def test_a_watch_gives_up_when_it_hears_nothing_any_more(deployment: Deployment) -> None:
    broken: list[list[Step]] = [[grpc.StatusCode.UNAVAILABLE] for _ in range(9)]
    deployment.training.scripts = [[state("1"), grpc.StatusCode.UNAVAILABLE], *broken]

    with Client(deployment.profile(), retry=QUICK) as client, pytest.raises(Unavailable):
        kinds(client)

    # the first stream was heard, so four in a row after it
    assert len(deployment.training.tokens) == 4


def test_a_failure_that_the_service_meant_ends_the_watch(deployment: Deployment) -> None:
    deployment.training.scripts = [[state("1"), RunLost("the run is lost")]]

    with Client(deployment.profile(), retry=QUICK) as client, pytest.raises(AegisApiError) as caught:
        kinds(client)

    assert caught.value.reason == "RUN_LOST"


def test_the_time_of_a_whole_watch_can_be_bounded(deployment: Deployment) -> None:
    deployment.training.scripts = [[reconnect(str(number))] for number in range(10_000)]

    with Client(deployment.profile(), retry=QUICK) as client, pytest.raises(DeadlineExceeded):
        list(client.training.watch("r1", timeout=0.3))


def test_a_watch_starts_after_a_given_event(deployment: Deployment) -> None:
    deployment.training.scripts = [[end("9")]]

    with deployment.client() as client:
        list(client.training.watch("r1", resume_token="8"))

    assert deployment.training.tokens == ["8"]


def test_wait_returns_the_ended_run(deployment: Deployment) -> None:
    deployment.training.scripts = [[state("1"), reconnect("1")], [end("2")]]

    with deployment.client() as client:
        assert client.training.wait("r1").state == "SUCCEEDED"


async def test_the_async_client_resumes_in_the_same_way(deployment: Deployment) -> None:
    deployment.training.scripts = [
        [state("1"), grpc.StatusCode.UNAVAILABLE],
        [round_done("2", 1), reconnect("2")],
        [end("3")],
        [end("4")],
    ]

    async with AsyncClient(deployment.profile(), retry=QUICK) as client:
        seen = [event.kind async for event in client.training.watch("r1")]
        run = await client.training.wait("r1")

    assert seen == ["state", "round", "end"]
    assert deployment.training.tokens == ["", "1", "2", ""]
    assert run.succeeded
