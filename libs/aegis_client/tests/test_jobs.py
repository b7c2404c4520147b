"""Jobs of the SDK and the command line, against a service whose every answer the test knows."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import code_pb2, status_pb2
from libs.aegis_client.tests.conftest import QUICK, START, Deployment, serving
from libs.aegis_client.tests.model_desk import refuse

from aegis.agent.v1 import job_service_pb2 as pb
from aegis.agent.v1 import job_service_pb2_grpc as pb_grpc
from aegis.agent.v1 import part_pb2
from aegis_client import AsyncClient, NotFound, UsageError
from aegis_client.cli.app import run
from aegis_client.profiles import write_profiles
from aegis_common.errors import AegisError, ErrorKind
from aegis_common.rpc.errors import to_status

Event = pb.WatchJobResponse | grpc.StatusCode
NAME = "jobs/0abc"


class UnknownJob(AegisError):
    kind = ErrorKind.NOT_FOUND
    reason = "UNKNOWN_JOB"


class ToolCrashed(AegisError):
    kind = ErrorKind.ABORTED
    reason = "TOOL_CRASHED"


def job(state: Any = pb.Job.STATE_WORKING, **fields: Any) -> pb.Job:
    return pb.Job(
        name=NAME,
        tool="tools/echo",
        state=state,
        state_message="so it is",
        priority=pb.Job.PRIORITY_HIGH,
        creator="sdk",
        create_time=START,
        trace_id="a" * 32,
        **fields,
    )


DONE = job(
    pb.Job.STATE_COMPLETED, result=[part_pb2.Part(text="the result")], start_time=START, end_time=START
)
DEAD = job(pb.Job.STATE_FAILED, error=to_status(ToolCrashed("it died")), dead_letter=True, attempt=3)


def told(token: str, **event: Any) -> pb.WatchJobResponse:
    return pb.WatchJobResponse(resume_token=token, event_time=START, attempt=1, **event)


class Desk(pb_grpc.JobServiceServicer):
    """Keeps what it was asked; each stream plays the next script and then ends."""

    def __init__(self) -> None:
        self.created: list[pb.CreateJobRequest] = []
        self.lists: list[pb.ListJobsRequest] = []
        self.retried: list[pb.RetryJobRequest] = []
        self.tokens: list[str] = []
        self.scripts: list[list[Event]] = []
        self.job = DONE

    async def CreateJob(self, request: Any, context: Any) -> pb.CreateJobResponse:
        self.created.append(request)
        return pb.CreateJobResponse(job=job(phase=pb.Job.PHASE_QUEUED))

    async def GetJob(self, request: Any, context: Any) -> pb.GetJobResponse:
        if request.name != NAME:
            await refuse(context, UnknownJob(f"{request.name} does not exist", job=request.name))
        return pb.GetJobResponse(job=self.job)

    async def ListJobs(self, request: Any, context: Any) -> pb.ListJobsResponse:
        self.lists.append(request)
        return pb.ListJobsResponse(jobs=[DEAD], next_page_token="" if request.page_token else "more")

    async def CancelJob(self, request: Any, context: Any) -> pb.CancelJobResponse:
        if request.name != NAME:
            await refuse(context, UnknownJob(f"{request.name} does not exist", job=request.name))
        return pb.CancelJobResponse(job=job(pb.Job.STATE_CANCELLED))

    async def RetryJob(self, request: Any, context: Any) -> pb.RetryJobResponse:
        self.retried.append(request)
        return pb.RetryJobResponse(job=job(phase=pb.Job.PHASE_QUEUED))

    async def ExplainJob(self, request: Any, context: Any) -> pb.ExplainJobResponse:
        attempt = pb.JobAttempt(
            number=1, outcome=pb.JobAttempt.OUTCOME_FAILED, runner="a-1", error=DEAD.error
        )
        return pb.ExplainJobResponse(
            job=DEAD, explanation=["It died.", "Retrying it may help."], attempts=[attempt]
        )

    async def WatchJob(self, request: Any, context: Any) -> AsyncIterator[pb.WatchJobResponse]:
        self.tokens.append(request.resume_token)
        for step in self.scripts.pop(0):
            if isinstance(step, pb.WatchJobResponse):
                yield step
            else:
                await refuse(context, step)


class JobDeployment(Deployment):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.desk = Desk()

    def add_to(self, server: grpc.aio.Server) -> None:
        pb_grpc.add_JobServiceServicer_to_server(self.desk, server)


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[JobDeployment]:
    with serving(JobDeployment(tmp_path / "mesh")) as made:
        yield made


@pytest.fixture
def aegis(deployment: JobDeployment, tmp_path: Path) -> Callable[..., int]:
    file = tmp_path / "profiles.toml"
    write_profiles(file, {"sdk": deployment.profile()}, default="sdk")
    return lambda *words: run(["--profile-file", str(file), "jobs", *words])


def test_a_job_is_asked_for_with_everything_that_was_said(deployment: JobDeployment, tmp_path: Path) -> None:
    file = tmp_path / "scan.png"
    file.write_bytes(b"png")
    later = datetime(2030, 1, 1, tzinfo=UTC)
    with deployment.client() as client:
        made = client.jobs.create(
            "echo",
            {"a": 1, "raw": b"\x00"},
            files={"image": file},
            tool_timeout=90,
            not_before=later,
            deadline=later + timedelta(hours=1),
            priority="high",
            max_attempts=4,
            zone="GB",
            max_wait=60,
            carbon_duration=30,
            pool="gpus",
            labels={"team": "red"},
        )

    asked = deployment.desk.created[0]
    assert (made.name, made.phase, made.priority, made.ended) == (NAME, "QUEUED", "HIGH", False)
    assert [part.name for part in asked.job.payload] == ["", "raw", "image"]
    assert (asked.job.timeout.seconds, asked.job.not_before.seconds) == (90, int(later.timestamp()))
    assert asked.job.deadline.seconds - asked.job.not_before.seconds == 3600
    assert (asked.job.carbon_policy.zone, asked.job.carbon_policy.max_wait.seconds) == ("zones/GB", 60)
    assert (asked.job.carbon_policy.duration.seconds, asked.job.carbon_policy.capacity_pool) == (30, "gpus")
    assert (asked.job.retry_policy.max_attempts, asked.job.labels["team"]) == (4, "red")
    assert len(asked.request_id) == 36


def test_without_a_word_about_the_grid_a_job_does_not_wait_for_it(deployment: JobDeployment) -> None:
    with deployment.client() as client:
        client.jobs.create("echo", {"a": 1})
        client.jobs.create("echo", {"a": 1}, wait_for_clean_grid=True)

    assert [item.job.HasField("carbon_policy") for item in deployment.desk.created] == [False, True]


def test_a_creation_is_sent_again_with_the_same_key(deployment: JobDeployment) -> None:
    deployment.faults.orders["CreateJob"] = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE]
    with deployment.client() as client:
        client.jobs.create("echo", {"a": 1})

    assert len(deployment.calls("CreateJob")) == 3
    assert len(deployment.desk.created) == 1


@pytest.mark.parametrize(
    "words",
    [{"not_before": datetime(2030, 1, 1)}, {"priority": "urgent"}, {"zone": "a/b"}],  # noqa: DTZ001
)
def test_what_cannot_be_sent_is_a_usage_error(deployment: JobDeployment, words: dict[str, Any]) -> None:
    with deployment.client() as client, pytest.raises(UsageError):
        client.jobs.create("echo", **words)


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param([told("2", reconnect=pb.JobReconnect())], id="the server asks to reconnect"),
        pytest.param([], id="the stream ends without a terminal event"),
        pytest.param([grpc.StatusCode.UNAVAILABLE], id="the agent goes away"),
    ],
)
def test_a_broken_watch_goes_on_unseen(deployment: JobDeployment, broken: list[Event]) -> None:
    first = [told("1", state_change=job()), told("2", log=pb.JobLog(level="INFO", message="half"))]
    deployment.desk.scripts = [
        [*first, *broken],
        [told("3", progress=pb.JobProgress(done=2)), told("4", end=DONE)],
    ]
    with deployment.client() as client:
        events = list(client.jobs.watch(NAME))

    assert [event.kind for event in events] == ["state", "log", "progress", "end"]
    assert deployment.desk.tokens == ["", "2"]
    assert (events[1].level, events[1].message, events[1].attempt) == ("INFO", "half", 1)
    assert events[2].progress is not None
    assert (events[2].progress.done, events[2].progress.total) == (2.0, None)
    assert events[3].job is not None
    assert events[3].job.value == "the result"


def test_waiting_gives_the_ended_job(deployment: JobDeployment) -> None:
    deployment.desk.scripts = [[told("1", end=DEAD)]]
    with deployment.client() as client:
        dead = client.jobs.wait("0abc")

    assert dead.error is not None
    assert (dead.state, dead.succeeded, dead.dead_letter) == ("FAILED", False, True)
    assert (dead.error.reason, dead.error.message) == ("TOOL_CRASHED", "it died")


async def test_the_async_client_does_the_same(deployment: JobDeployment) -> None:
    deployment.desk.scripts = [[told("1", chunk=pb.JobChunk(omitted_bytes=7)), told("2", end=DONE)]]
    async with AsyncClient(deployment.profile(), retry=QUICK) as client:
        made = await client.jobs.create("echo", {"a": 1})
        done = await client.jobs.wait(made.name)
        listed = [item.name async for item in client.jobs.list(filter="state = FAILED")]
        explained = await client.jobs.explain(made.name)
        with pytest.raises(NotFound):
            await client.jobs.get("other")

    assert done.value == "the result"
    assert listed == [NAME, NAME]
    assert [item.filter for item in deployment.desk.lists] == ["state = FAILED"] * 2
    assert explained.lines == ("It died.", "Retrying it may help.")
    assert explained.attempts[0].error is not None
    assert explained.attempts[0].error.reason == "TOOL_CRASHED"


def test_the_command_follows_a_job_and_prints_its_result(
    deployment: JobDeployment, aegis: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    deployment.desk.scripts = [
        [
            told("1", state_change=job(phase=pb.Job.PHASE_RUNNING)),
            told("2", progress=pb.JobProgress(done=1, total=4, message="cut")),
            told("3", log=pb.JobLog(level="WARNING", message="[careful]")),
            told("4", chunk=pb.JobChunk(parts=[part_pb2.Part(text="item")])),
            told("5", state_change=DONE),
            told("6", end=DONE),
        ]
    ]
    code = aegis("create", "echo", "--arg", "a=1", "--deadline", "2h", "--label", "team=red", "--clean")

    printed = capsys.readouterr()
    assert code == 0
    assert printed.out == "the result\n"
    assert printed.err.splitlines() == [
        f"{NAME}  trace {'a' * 32}",
        "0abc  RUNNING: so it is",
        "1 of 4  cut",
        "WARNING  [careful]",
        "item",
        "0abc  COMPLETED: so it is",
    ]
    asked = deployment.desk.created[0].job
    ahead = asked.deadline.ToDatetime(tzinfo=UTC) - datetime.now(UTC)
    assert timedelta(minutes=110) < ahead <= timedelta(hours=2)
    assert asked.HasField("carbon_policy")


def test_a_failed_job_ends_the_command_with_one(
    deployment: JobDeployment, aegis: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    deployment.desk.scripts = [[told("1", end=DEAD)]]

    assert aegis("watch", "0abc", "-o", "json") == 1
    line = json.loads(capsys.readouterr().out)
    assert (line["kind"], line["job"]["error"]["reason"]) == ("end", "TOOL_CRASHED")


def test_jobs_are_listed_explained_cancelled_and_retried(
    deployment: JobDeployment, aegis: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert aegis("list", "--dead", "--filter", "labels.team = red", "--limit", "2") == 0
    assert deployment.desk.lists[0].filter == "state = FAILED AND dead_letter = true AND labels.team = red"
    assert capsys.readouterr().out.splitlines()[1].split()[:4] == ["0abc", "echo", "FAILED", "3"]
    assert aegis("explain", "0abc") == 0
    assert capsys.readouterr().out == "It died.\nRetrying it may help.\n"
    assert aegis("cancel", "0abc", "jobs/0abc") == 0
    assert capsys.readouterr().out.splitlines() == ["0abc  CANCELLED: so it is"] * 2
    assert aegis("retry", "0abc", "--deadline", "2030-01-01T00:00:00Z") == 0
    assert deployment.desk.retried[0].deadline.seconds == 1893456000
    held = pb.JobReservation(name="reservations/1-2", planned_start_time=START, expected_saving=0.234)
    deployment.desk.job = job(reservation=held)
    assert aegis("get", "0abc") == 0
    assert "1-2, planned for " in (printed := capsys.readouterr().out)
    assert "expected saving 23%" in printed
    deployment.desk.job = DEAD
    assert aegis("get", "0abc") == 0
    assert "TOOL_CRASHED: it died" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_fails_for_one_job_keeps_no_other_from_being_cancelled(
    deployment: JobDeployment, aegis: Callable[..., int], capsys: pytest.CaptureFixture[str], form: str
) -> None:
    assert aegis("cancel", "gone", "0abc", "lost", "-o", form) == 1

    printed = capsys.readouterr()
    if form == "text":
        assert printed.out == "0abc  CANCELLED: so it is\n"
    else:
        assert [item["name"] for item in json.loads(printed.out)] == [NAME]
    for name in ("jobs/gone", "jobs/lost"):
        assert f"{name} does not exist" in printed.err


def test_a_start_that_is_past_is_refused_but_for_a_job_that_may_be_there(
    deployment: JobDeployment, aegis: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    past = ["create", "echo", "--detach", "--not-before", "2026-01-01T00:00Z"]

    assert aegis(*past) == 2
    assert "is past: it means 2026-01-01 00:00Z; leave it out" in capsys.readouterr().err
    assert deployment.desk.created == []
    assert aegis(*past, "--request-id", "0197f3a2-7c1e-4d52-9a41-3f0c5b6de8a7") == 0


@pytest.mark.parametrize(
    "words",
    [
        ["--deadline", "inf"],
        ["--not-before", "nan"],
        ["--timeout", "-5"],
        ["--deadline", "9e99d"],
        ["--deadline", "soon"],
        ["--timeout", "x"],
        ["--arg", "a"],
        ["--label", "=x"],
    ],
)
def test_words_that_mean_nothing_are_named(
    deployment: JobDeployment, aegis: Callable[..., int], capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert aegis("create", "echo", *words) == 2
    assert words[1] in capsys.readouterr().err
    assert deployment.desk.created == []


def test_an_unknown_status_is_no_fault_of_the_client(deployment: JobDeployment) -> None:
    deployment.desk.job = job(pb.Job.STATE_FAILED, error=status_pb2.Status(code=code_pb2.DATA_LOSS))
    with deployment.client() as client:
        found = client.jobs.get(NAME)

    assert found.error is not None
    assert found.error.code == "DATA_LOSS"
