"""JobService over real mutual TLS, on a Redis that keeps its writes: two agents share the jobs."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import pytest_asyncio
from google.protobuf.json_format import MessageToDict
from services.agent.tests.job_fleet import (
    Fleet,
    created,
    ended,
    events_of,
    failure,
    fleet_in,
    moment,
    reached,
    starts,
    wanted,
)

from aegis.agent.v1 import job_service_pb2 as pb
from aegis.agent.v1 import part_pb2
from aegis_common.errors import ErrorKind
from aegis_common.rpc.errors import from_status

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    async with fleet_in(tmp_path_factory.mktemp("jobs"), [{}, {"job_slots": 0}]) as made:
        yield made


async def test_a_job_gives_its_result_and_keeps_it(fleet: Fleet) -> None:
    stub = fleet.jobs()
    job = await created(stub, wanted("add", {"a": 2, "b": 3}, labels={"team": "red"}))

    end = await ended(stub, job.name)
    kept = (await stub.GetJob(pb.GetJobRequest(name=job.name))).job
    assert (job.state, job.attempt) == (pb.Job.STATE_WORKING, 0)
    assert end.state == pb.Job.STATE_COMPLETED
    assert end.result[0].json["result"] == 5.0
    assert (kept.result, kept.payload[0].json["a"], kept.labels["team"]) == (end.result, 2.0, "red")
    assert (kept.creator, kept.attempt, kept.tool_version) == ("sdk", 1, "1.0.0")
    assert kept.end_time.ToDatetime() + timedelta(days=7) == kept.expire_time.ToDatetime()
    assert len(kept.trace_id) == 32


async def test_a_job_created_at_an_agent_that_runs_none_is_seen_to_its_end_there(fleet: Fleet) -> None:
    stub = fleet.jobs(agent=1)
    job = await created(
        stub, wanted("tell", {"lines": 4}, not_before=moment(1.0))
    )  # not before it is watched

    events = await events_of(stub, job.name)
    assert [event.log.message for event in events if event.WhichOneof("event") == "log"] == [
        f"line {number}" for number in range(4)
    ]
    assert events[-1].end.result[0].text == "told"
    assert [event.WhichOneof("event") for event in events].count("end") == 1
    assert events[-1].end.progress.done == 4
    assert events[-1].end.progress.total == 4


async def test_a_watch_goes_on_after_any_event(fleet: Fleet) -> None:
    stub = fleet.jobs()
    job = await created(stub, wanted("tell", {"lines": 3}))
    events = await events_of(stub, job.name)

    for number, event in enumerate(events[:-1]):
        rest = await events_of(fleet.jobs(agent=1), job.name, resume_token=event.resume_token)
        assert [item.resume_token for item in rest] == [item.resume_token for item in events[number + 1 :]]
        assert rest[-1].end == events[-1].end
    digest, _ = json.loads(base64.urlsafe_b64decode(events[0].resume_token + "=="))
    made_up = [
        base64.urlsafe_b64encode(json.dumps([digest, place]).encode()).decode()
        for place in ("9" * 25 + "-0", "1_0-5", "5", 7, "-5-1", "\u0665-0")
    ]
    for token in made_up:
        call = events_of(stub, job.name, resume_token=token)
        assert await failure(call) == (ErrorKind.INVALID_ARGUMENT, "INVALID_RESUME_TOKEN")
    later = base64.urlsafe_b64encode(json.dumps([digest, "9" * 15 + "-0"]).encode()).decode()
    again = await events_of(stub, job.name, resume_token=later)
    assert [event.WhichOneof("event") for event in again] == ["state_change", "end"]
    foreign = await created(stub, wanted("add", {"a": 1}))
    for token in ("junk", events[0].resume_token):
        call = events_of(stub, foreign.name, resume_token=token)
        assert await failure(call) == (ErrorKind.INVALID_ARGUMENT, "INVALID_RESUME_TOKEN")


async def test_a_watch_ends_with_reconnect_before_its_time_is_over(fleet: Fleet) -> None:
    stub = fleet.jobs()
    job = await created(stub, wanted("add", {"a": 1}, not_before=moment(60)))

    stream = stub.WatchJob(pb.WatchJobRequest(name=job.name), timeout=1.0)
    events = [event async for event in stream]
    assert [event.WhichOneof("event") for event in events] == ["state_change", "reconnect"]
    await stub.CancelJob(pb.CancelJobRequest(name=job.name))
    rest = await events_of(stub, job.name, resume_token=events[-1].resume_token)
    assert rest[-1].end.state == pb.Job.STATE_CANCELLED


async def test_a_request_id_makes_one_job(fleet: Fleet) -> None:
    stub, key = fleet.jobs(), str(uuid.uuid4())
    first = await created(stub, wanted("add", {"a": 1}, request_id=key))
    again = await created(fleet.jobs(agent=1), wanted("add", {"a": 1}, request_id=key))
    other = wanted("add", {"a": 2}, request_id=key)

    assert again.name == first.name
    assert await failure(stub.CreateJob(other)) == (ErrorKind.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    await ended(stub, first.name)
    assert (await created(stub, wanted("add", {"a": 1}, request_id=key))).state == pb.Job.STATE_COMPLETED


async def test_a_request_id_raced_for_makes_one_job(fleet: Fleet) -> None:
    stubs, key = (fleet.jobs(), fleet.jobs(agent=1)), str(uuid.uuid4())
    request = wanted("add", {"a": 1}, request_id=key)

    jobs = await asyncio.gather(*(created(stubs[number % 2], request) for number in range(10)))
    assert len({job.name for job in jobs}) == 1


@pytest.mark.parametrize(
    ("request_", "kind", "reason"),
    [
        (wanted("nothing"), ErrorKind.NOT_FOUND, "UNKNOWN_TOOL"),
        (wanted("add", {"a": "x"}), ErrorKind.INVALID_ARGUMENT, "INVALID_TOOL_INPUT"),
        (wanted("add", {"a": 1}, deadline=moment(-5)), ErrorKind.INVALID_ARGUMENT, "INVALID_JOB"),
        (
            wanted("add", {"a": 1}, deadline=moment(50), not_before=moment(60)),
            ErrorKind.INVALID_ARGUMENT,
            "INVALID_JOB",
        ),
        (wanted("add", {"a": 1}, not_before=moment(90 * 86400)), ErrorKind.INVALID_ARGUMENT, "INVALID_JOB"),
        (
            wanted("add", {"a": 1}, retry_policy=pb.JobRetryPolicy(max_attempts=2)),
            ErrorKind.INVALID_ARGUMENT,
            "INVALID_JOB",
        ),
        (
            wanted("add", {"a": 1}, carbon_policy=pb.JobCarbonPolicy()),
            ErrorKind.FAILED_PRECONDITION,
            "NO_CARBON_SERVICE",
        ),
        (wanted("add", {"a": 1}, labels={"Bad Key": "x"}), ErrorKind.INVALID_ARGUMENT, "INVALID_REQUEST"),
    ],
)
async def test_a_job_that_cannot_be_is_refused(
    fleet: Fleet, request_: pb.CreateJobRequest, kind: ErrorKind, reason: str
) -> None:
    assert await failure(fleet.jobs().CreateJob(request_)) == (kind, reason)


async def test_a_payload_beyond_the_limit_is_refused(fleet: Fleet) -> None:
    request = wanted("join")
    request.job.payload.append(part_pb2.Part(inline_bytes=bytes((1 << 20) - 100)))
    fits = await ended(fleet.jobs(), (await created(fleet.jobs(), request)).name)
    request.job.payload[0].inline_bytes += bytes(100)

    assert fits.state == pb.Job.STATE_COMPLETED
    call = fleet.jobs().CreateJob(request)
    assert await failure(call) == (ErrorKind.INVALID_ARGUMENT, "PAYLOAD_TOO_LARGE")


async def test_a_failed_job_tells_the_tools_own_error(fleet: Fleet) -> None:
    stub = fleet.jobs()
    job = await ended(stub, (await created(stub, wanted("fail", {"message": "no luck"}))).name)

    error = from_status(job.error)
    assert (job.state, error.reason, job.dead_letter) == (pb.Job.STATE_FAILED, "TOOL_FAILED", False)
    assert "no luck" in error.message


async def test_a_crashed_job_is_tried_again_while_it_may_be(fleet: Fleet) -> None:
    stub = fleet.jobs()
    quick = pb.JobRetryPolicy(max_attempts=3)
    quick.initial_backoff.FromTimedelta(timedelta(milliseconds=20))
    files = [fleet.folder / f"crash{number}" for number in range(2)]
    request = wanted("crash_until", {"file": str(files[0]), "starts": 3}, retry_policy=quick)
    good = await ended(stub, (await created(stub, request)).name)
    request = wanted("crash_until", {"file": str(files[1]), "starts": 9}, retry_policy=quick)
    bad = await ended(stub, (await created(stub, request)).name)
    told = await stub.ExplainJob(pb.ExplainJobRequest(name=bad.name))

    assert (good.state, good.attempt, len(starts(files[0]))) == (pb.Job.STATE_COMPLETED, 3, 3)
    assert (bad.state, bad.attempt, len(starts(files[1]))) == (pb.Job.STATE_FAILED, 3, 3)
    assert (from_status(bad.error).reason, bad.dead_letter) == ("TOOL_CRASHED", True)
    assert [item.number for item in told.attempts] == [1, 2, 3]
    assert {from_status(item.error).reason for item in told.attempts} == {"TOOL_CRASHED"}
    assert "Retrying it may help." in told.explanation


async def test_the_next_attempt_goes_on_from_the_checkpoint(fleet: Fleet) -> None:
    stub, file = fleet.jobs(), fleet.folder / "counted"
    job = await created(stub, wanted("count_on", {"file": str(file), "upto": 5}))
    end = await ended(stub, job.name)

    assert (end.state, end.attempt, len(starts(file))) == (pb.Job.STATE_COMPLETED, 2, 1)
    assert MessageToDict(end.result[0].json) == {"result": [3, 4]}


async def test_a_failed_or_cancelled_job_runs_again_when_asked(fleet: Fleet) -> None:
    stub = fleet.jobs()
    file = fleet.folder / "again"
    once = pb.JobRetryPolicy(max_attempts=1)
    request = wanted("crash_until", {"file": str(file), "starts": 2}, retry_policy=once)
    bad = await ended(stub, (await created(stub, request)).name)
    dead = await stub.ListJobs(pb.ListJobsRequest(filter="state = FAILED AND dead_letter = true"))
    retried = (await stub.RetryJob(pb.RetryJobRequest(name=bad.name))).job
    good = await ended(stub, bad.name)

    assert bad.name in [job.name for job in dead.jobs]
    assert retried.state == pb.Job.STATE_WORKING
    assert (good.state, good.attempt) == (pb.Job.STATE_COMPLETED, 2)
    retry = stub.RetryJob(pb.RetryJobRequest(name=bad.name))
    assert await failure(retry) == (ErrorKind.FAILED_PRECONDITION, "JOB_NOT_RETRYABLE")
    dead = await stub.ListJobs(pb.ListJobsRequest(filter="dead_letter = true"))
    assert bad.name not in [job.name for job in dead.jobs]


async def test_a_waiting_job_is_cancelled_at_once(fleet: Fleet) -> None:
    stub, file = fleet.jobs(), fleet.folder / "never"
    request = wanted("note_once", {"file": str(file), "key": "k"}, not_before=moment(30))
    job = await created(stub, request)
    gone = (await stub.CancelJob(pb.CancelJobRequest(name=job.name))).job

    assert (job.phase, job.wait_reason) == (pb.Job.PHASE_DEFERRED, pb.Job.WAIT_REASON_NOT_BEFORE)
    assert gone.state == pb.Job.STATE_CANCELLED
    assert (await stub.CancelJob(pb.CancelJobRequest(name=job.name))).job == gone
    assert starts(file) == []


@pytest.mark.parametrize("tool", ["note_once", "spin"])
async def test_a_running_job_is_stopped_from_another_agent(fleet: Fleet, tool: str) -> None:
    stub, file = fleet.jobs(), fleet.folder / f"stopped-{tool}"
    arguments = {"pid_file": str(file)} if tool == "spin" else {"file": str(file), "key": "k", "seconds": 600}
    job = await created(stub, wanted(tool, arguments))
    await reached(stub, job.name, lambda now: now.phase == pb.Job.PHASE_RUNNING and file.exists())
    cancelling = (await fleet.jobs(agent=1).CancelJob(pb.CancelJobRequest(name=job.name))).job
    end = await ended(stub, job.name)

    assert cancelling.phase in (pb.Job.PHASE_CANCELLING, pb.Job.PHASE_UNSPECIFIED)
    assert (end.state, end.attempt) == (pb.Job.STATE_CANCELLED, 1)
    told = await stub.ExplainJob(pb.ExplainJobRequest(name=job.name))
    assert [item.outcome for item in told.attempts] == [pb.JobAttempt.OUTCOME_CANCELLED]


async def test_not_before_and_the_deadline_are_kept(fleet: Fleet) -> None:
    stub, file = fleet.jobs(), fleet.folder / "late"
    later = await created(stub, wanted("add", {"a": 1}, not_before=moment(0.7)))
    stopped = await created(
        stub,
        wanted("note_once", {"file": str(file), "key": "k", "seconds": 600}, deadline=moment(1.0)),
    )
    assert later.phase == pb.Job.PHASE_DEFERRED
    done, late = await asyncio.gather(ended(stub, later.name), ended(stub, stopped.name))

    assert done.start_time.ToDatetime() >= later.not_before.ToDatetime()
    assert (late.state, from_status(late.error).reason) == (pb.Job.STATE_FAILED, "JOB_DEADLINE")
    assert from_status(late.error).kind is ErrorKind.DEADLINE_EXCEEDED
    assert starts(file) == ["k"]


async def test_jobs_are_listed_by_filter_and_page(fleet: Fleet) -> None:
    stub, run = fleet.jobs(), uuid.uuid4().hex[:12]
    made = [
        await created(stub, wanted("add", {"a": 1}, labels={"run": run, "n": str(number)}))
        for number in range(5)
    ]
    for job in made:
        await ended(stub, job.name)
    newest_first = [job.name for job in reversed(made)]
    text = f'labels.run = "{run}" AND state = COMPLETED AND tool = "tools/add"'

    first = await stub.ListJobs(pb.ListJobsRequest(filter=text, page_size=2))
    second = await stub.ListJobs(
        pb.ListJobsRequest(filter=text, page_size=3, page_token=first.next_page_token)
    )
    assert [job.name for job in (*first.jobs, *second.jobs)] == newest_first
    assert second.next_page_token == ""
    some = await stub.ListJobs(pb.ListJobsRequest(filter=f"{text} AND labels.n != 3"))
    assert [job.labels["n"] for job in some.jobs] == ["4", "2", "1", "0"]
    assert not some.jobs[0].result
    assert not some.jobs[0].payload
    other = stub.ListJobs(pb.ListJobsRequest(page_token=first.next_page_token))
    assert await failure(other) == (ErrorKind.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")
    wrong = stub.ListJobs(pb.ListJobsRequest(filter="stat = FAILED"))
    assert await failure(wrong) == (ErrorKind.INVALID_ARGUMENT, "INVALID_FILTER")


async def test_a_job_is_seen_by_its_tenant_only(fleet: Fleet) -> None:
    job = await created(fleet.jobs(), wanted("add", {"a": 1}))
    blue = fleet.jobs("blue")

    for call in (
        blue.GetJob(pb.GetJobRequest(name=job.name)),
        blue.CancelJob(pb.CancelJobRequest(name=job.name)),
        blue.RetryJob(pb.RetryJobRequest(name=job.name)),
        blue.ExplainJob(pb.ExplainJobRequest(name=job.name)),
        events_of(blue, job.name),
    ):
        assert await failure(call) == (ErrorKind.NOT_FOUND, "UNKNOWN_JOB")
    assert list((await blue.ListJobs(pb.ListJobsRequest())).jobs) == []
    viewer = fleet.jobs("viewer")
    assert (await viewer.GetJob(pb.GetJobRequest(name=job.name))).job.name == job.name
    denied = viewer.CancelJob(pb.CancelJobRequest(name=job.name))
    assert await failure(denied) == (ErrorKind.PERMISSION_DENIED, "ROLE_MISSING")


async def test_a_large_result_becomes_an_artifact_that_lives_as_long_as_the_job(fleet: Fleet) -> None:
    stub = fleet.jobs()
    end = await ended(stub, (await created(stub, wanted("make_bytes", {"size": 3 << 20}))).name)

    assert end.state == pb.Job.STATE_COMPLETED
    assert end.result[0].artifact.startswith("artifacts/")
    kept = await fleet.artifact(end.result[0].artifact)
    assert kept.expire_time.ToDatetime() >= end.expire_time.ToDatetime()


async def test_what_a_job_takes_in_lives_until_it_may_have_run(fleet: Fleet) -> None:
    stub = fleet.jobs()
    first = await ended(stub, (await created(stub, wanted("make_bytes", {"size": 2 << 20}))).name)
    name = first.result[0].artifact
    request = wanted("join", not_before=moment(20 * 86400))
    request.job.payload.append(part_pb2.Part(artifact=name))
    job = await created(stub, request)

    kept = await fleet.artifact(name)
    assert kept.expire_time.ToDatetime() > job.not_before.ToDatetime()


@pytest.mark.parametrize("how", ["progress", "log", "raise", "return"])
async def test_half_characters_harm_nobody(fleet: Fleet, how: str) -> None:
    stub = fleet.jobs()
    job = await created(stub, wanted("half_text", {"how": how}, not_before=moment(1.0)))
    events = await events_of(stub, job.name)
    listed = await stub.ListJobs(pb.ListJobsRequest(filter="tool = half_text"))

    end = events[-1].end
    assert end.attempt == 1
    if how in ("progress", "log"):
        told = [event.progress.message or event.log.message for event in events]
        assert (end.state, "\\udcff" in told) == (pb.Job.STATE_COMPLETED, True)
    else:
        assert end.state == pb.Job.STATE_FAILED
    assert job.name in [item.name for item in listed.jobs]


async def test_the_wait_for_a_slot_of_the_tool_is_no_time_of_the_attempt(fleet: Fleet) -> None:
    stub = fleet.jobs()
    request = wanted("one_at_a_time", {"seconds": 0.5})
    jobs = [await created(stub, request) for _ in range(3)]

    ends = [await ended(stub, job.name) for job in jobs]
    assert [(end.state, end.attempt) for end in ends] == [(pb.Job.STATE_COMPLETED, 1)] * 3
    assert ends[-1].start_time.ToDatetime() - ends[0].start_time.ToDatetime() > timedelta(seconds=0.8)
    late = await ended(stub, (await created(stub, wanted("one_at_a_time", {"seconds": 9.0}))).name)
    assert from_status(late.error).reason == "TOOL_TIMEOUT"
    assert "within 0.8 s" in late.state_message
