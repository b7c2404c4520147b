"""The API server as the controller sees it: lists, watches, changes, Events and the Lease."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from aegis_carbon.controller.adapters.client import KubeClient
from aegis_carbon.controller.adapters.jobs import KubeJobs
from aegis_carbon.controller.adapters.leases import KubeLease
from aegis_carbon.controller.adapters.objects import job_of
from aegis_carbon.controller.adapters.reflector import Reflector
from aegis_carbon.controller.domain.election import Election
from aegis_carbon.controller.domain.job import Job, JobStore
from aegis_carbon.controller.domain.ports import ApiUnavailable, Change, Changed, Note
from aegis_carbon.controller.domain.record import RECORD, Phase, Record
from aegis_carbon.testing.clock import NOW, ManualClock
from aegis_carbon.testing.kube_api import KubeApi
from aegis_common.testing.waiting import until

WISH = {"aegis.dev/deadline": "8h", "aegis.dev/duration": "1h"}
RECORDED = Record("w", Phase.WAITING, NOW)


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with KubeApi.serving() as server:
        yield server


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("first\n")
    return path


@pytest.fixture
async def client(api: KubeApi, token: Path) -> AsyncIterator[KubeClient]:
    async with httpx.AsyncClient(trust_env=False) as http:
        yield KubeClient(api.url, token, http)


@pytest.fixture
def jobs(client: KubeClient, clock: ManualClock) -> KubeJobs:
    return KubeJobs(client, instance="pod-1", clock=clock)


@asynccontextmanager
async def followed(client: KubeClient, namespace: str = "") -> AsyncIterator[JobStore]:
    async def soon(_: float) -> None:
        await asyncio.sleep(0.01)

    store = JobStore([namespace])
    task = asyncio.create_task(Reflector(client, namespace, store, sleep=soon).run())
    try:
        await until(lambda: store.synced)
        yield store
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def names(store: JobStore) -> set[str]:
    return {job.name for job in store.all()}


def watches(api: KubeApi) -> int:
    return sum(request.query.get("watch") == "true" for request in api.requests)


async def test_jobs_with_a_wish_are_listed_page_after_page_and_followed(
    api: KubeApi, client: KubeClient
) -> None:
    api.page = 2
    for number in range(5):
        api.create_job(f"old-{number}", WISH, namespace=f"n{number % 2}")
    api.create_job("other", {})

    async with followed(client) as store:
        assert {f"old-{number}" for number in range(5)} == names(store)
        api.create_job("new", WISH)
        api.delete_job("old-0", "n0")
        api.edit_job("other", lambda item: item["metadata"]["annotations"].update(WISH))
        await until(lambda: names(store) == {"old-1", "old-2", "old-3", "old-4", "new", "other"})
        going = {"deletionTimestamp": "2026-12-01T00:00:00Z"}
        api.edit_job("new", lambda item: item["metadata"].update(going))
        await until(lambda: "new" not in names(store))


async def test_after_a_break_it_goes_on_from_the_last_bookmark_without_a_list(
    api: KubeApi, client: KubeClient
) -> None:
    async with followed(client) as store:
        await until(lambda: watches(api) == 1)
        api.bookmark()
        await asyncio.sleep(0)
        api.create_job("a", {})
        api.bookmark()
        api.create_job("b", WISH)
        await until(lambda: names(store) == {"b"})
        api.cut_watches()
        api.create_job("c", WISH)
        await until(lambda: names(store) == {"b", "c"})

    lists = [request for request in api.requests if request.query.get("watch") is None]
    assert 1 == len(lists)
    assert int(api.requests[-1].query["resourceVersion"]) > int(api.requests[1].query["resourceVersion"])


async def test_a_version_that_is_too_old_is_listed_again_and_what_went_meanwhile_is_gone(
    api: KubeApi, client: KubeClient
) -> None:
    api.create_job("stays", WISH)
    api.create_job("goes", WISH)
    async with followed(client) as store:
        await until(lambda: watches(api) == 1)
        api.refuse = lambda request: 500 if request.query.get("watch") else None
        api.cut_watches()
        await until(lambda: watches(api) > 3)
        api.delete_job("goes")
        api.compact()
        api.refuse = lambda _: None

        await until(lambda: names(store) == {"stays"})


async def test_a_namespace_alone_is_followed_alone(api: KubeApi, client: KubeClient) -> None:
    api.create_job("a", WISH, namespace="here")
    async with followed(client, "here") as store:
        api.create_job("b", WISH, namespace="there")
        api.create_job("c", WISH, namespace="here")
        await until(lambda: names(store) == {"a", "c"})


async def test_a_change_is_made_of_what_was_read_and_of_nothing_else(
    api: KubeApi, client: KubeClient, jobs: KubeJobs
) -> None:
    uid = api.create_job("a", WISH)
    seen = job_of(api.job("a"))

    after = await jobs.change(seen, Change(suspend=True, record=RECORDED))

    assert (True, RECORDED.written()) == (after.suspended, after.annotations[RECORD])
    assert WISH.items() <= after.annotations.items()
    with pytest.raises(Changed, match=r'jobs.batch "a": the object has been modified'):
        await jobs.change(seen, Change(suspend=False, record=None))
    restored = await jobs.change(job_of(api.job("a")), Change(suspend=None, record=None))
    assert (True, WISH) == (restored.suspended, restored.annotations)
    assert restored == await jobs.read("default", "a", uid)
    assert await jobs.read("default", "a", "another") is None
    api.delete_job("a")
    assert await jobs.read("default", "a", uid) is None
    with pytest.raises(Changed):
        await jobs.change(restored, Change(suspend=False, record=None))


async def test_the_same_event_counts_up_whoever_writes_it(
    api: KubeApi, client: KubeClient, clock: ManualClock
) -> None:
    api.create_job("a", WISH)
    seen = job_of(api.job("a"))
    for instance in ("pod-1", "pod-2"):
        await KubeJobs(client, instance=instance, clock=clock).tell(seen, Note("Suspended", "It pauses."))
        clock.move(minutes=5)
    await KubeJobs(client, instance="pod-2", clock=clock).tell(seen, Note("Resumed", "It goes on."))

    (event,) = api.events("Suspended")
    assert (2, "Normal", "Job", seen.uid) == (
        event["count"],
        event["type"],
        event["involvedObject"]["kind"],
        event["involvedObject"]["uid"],
    )
    assert event["firstTimestamp"] < event["lastTimestamp"]
    assert 2 == len(api.events())


async def test_a_refusal_names_what_the_server_said_and_a_token_is_read_anew(
    api: KubeApi, client: KubeClient, jobs: KubeJobs, token: Path
) -> None:
    api.refuse = lambda _: 403
    with pytest.raises(ApiUnavailable, match="403: told to; does its role allow it"):
        await jobs.read("default", "a", "u")
    token.write_text("second")
    api.refuse = lambda _: None
    await jobs.read("default", "a", "u")

    assert ["first", "second"] == [request.token for request in api.requests]


@pytest.mark.parametrize(
    ("edit", "who"),
    [
        ({"spec": {"managedBy": "kueue.x-k8s.io/multikueue"}}, "kueue.x-k8s.io/multikueue"),
        ({"spec": {"managedBy": "kubernetes.io/job-controller"}}, ""),
        ({"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "gpu"}}}, "Kueue (queue gpu)"),
        ({"metadata": {"ownerReferences": [{"kind": "CronJob", "name": "c", "controller": True}]}}, ""),
        (
            {"metadata": {"ownerReferences": [{"kind": "JobSet", "name": "s", "controller": True}]}},
            "JobSet s",
        ),
    ],
)
def test_a_job_of_another_manager_is_seen(api: KubeApi, edit: dict[str, dict[str, object]], who: str) -> None:
    api.create_job("a", WISH)
    item = api.job("a")
    for part, fields in edit.items():
        item[part].update(fields)

    assert who == job_of(item).managed_by


@pytest.mark.parametrize("failed", [False, True])
def test_the_end_of_a_job_is_seen(api: KubeApi, failed: bool) -> None:
    api.create_job("a", WISH)
    running: Job = job_of(api.job("a"))
    api.complete_job("a", failed=failed)

    assert (True, None) == (running.started, running.ended)
    assert job_of(api.job("a")).ended is not None


class Contender:
    """One controller in an election, with a clock of its own."""

    def __init__(self, client: KubeClient, name: str, clock: ManualClock) -> None:
        self.elapsed_s = 100.0
        self.election = Election(
            KubeLease(client, namespace="aegis", name="controller"),
            name,
            lasts=timedelta(seconds=15),
            clock=clock,
            elapsed=lambda: self.elapsed_s,
        )

    async def turn(self, *, after_s: float = 0) -> bool:
        self.elapsed_s += after_s
        await self.election.turn()
        return self.election.leading()


async def test_one_leads_and_the_next_takes_over_when_its_time_has_run_out(
    api: KubeApi, client: KubeClient, clock: ManualClock
) -> None:
    one, two = Contender(client, "one", clock), Contender(client, "two", clock)

    assert [True, False] == [await one.turn(), await two.turn()]
    # As long as it is renewed, it stays.
    for _ in range(4):
        assert await one.turn(after_s=5)
        assert not await two.turn(after_s=5)
    # The first one is cut off: it stops before the other one starts.
    one.elapsed_s += 10.1
    assert [False, False] == [one.election.leading(), await two.turn(after_s=10.1)]
    assert await two.turn(after_s=5)
    assert not await one.turn(after_s=5)


async def test_a_leader_that_leaves_is_followed_at_once_and_one_write_of_two_wins(
    api: KubeApi, client: KubeClient, clock: ManualClock
) -> None:
    one, two, three = (Contender(client, name, clock) for name in ("one", "two", "three"))
    await one.turn()
    await one.election.resign()

    led = await asyncio.gather(two.turn(), three.turn())

    assert 1 == sum(led)
    assert not one.election.leading()


async def test_a_leader_stays_for_its_time_when_the_server_is_away(
    api: KubeApi, client: KubeClient, clock: ManualClock
) -> None:
    one = Contender(client, "one", clock)
    await one.turn()
    api.refuse = lambda _: 503

    assert [True, False] == [await one.turn(after_s=9), await one.turn(after_s=2)]
