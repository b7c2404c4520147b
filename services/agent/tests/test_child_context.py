"""What a tool in a child tells its caller, and how it learns that its call is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from aegis_agent.adapters.children.pool import WorkerPool
from aegis_agent.adapters.children.setup import WorkerLimits
from aegis_agent.domain.call import Call, Caller, Checkpoint, Chunk, Event, LogLine, Progress
from aegis_agent.domain.errors import InvalidToolOutput, ToolFailed, ToolOutputTooLarge
from aegis_common.errors import AegisError, ErrorKind

pytestmark = pytest.mark.asyncio(loop_scope="module")

MakePool = Callable[..., WorkerPool]
WaitUntil = Callable[[Callable[[], bool]], Awaitable[None]]
GUARD_S = 60.0


class NoSuchArtifact(AegisError):
    kind = ErrorKind.NOT_FOUND
    reason = "UNKNOWN_ARTIFACT"


@dataclass
class Shelf:
    """Artifacts in a dictionary."""

    kept: dict[str, tuple[bytes, str, str]] = field(default_factory=dict)

    async def read(self, name: str) -> bytes:
        if name not in self.kept:
            raise NoSuchArtifact(f"{name} does not exist", name=name)
        return self.kept[name][0]

    async def save(self, data: bytes, *, media_type: str = "", filename: str = "") -> str:
        name = f"artifacts/{len(self.kept)}"
        self.kept[name] = (data, media_type, filename)
        return name


async def run(pool: WorkerPool, seconds: float = GUARD_S, /, **arguments: Any) -> tuple[Any, list[Event]]:
    told: list[Event] = []

    async def sink(event: Event) -> None:
        told.append(event)

    return await pool.run(a_call(sink, seconds, **arguments)), told


def a_call(sink: Callable[[Event], Awaitable[None]], seconds: float = GUARD_S, /, **arguments: Any) -> Call:
    deadline = asyncio.get_running_loop().time() + seconds
    return Call(arguments=arguments, caller=Caller(tenant="acme"), deadline=deadline, sink=sink)


async def test_progress_and_log_lines_come_in_order(make_pool: MakePool) -> None:
    value, told = await run(make_pool("telling:report"))

    assert value == "done"
    assert told == [
        Progress(done=1, total=3, message="read"),
        LogLine(level="INFO", message="half of it"),
        LogLine(level="ERROR", message="bad"),
        Progress(done=3),
    ]


async def test_a_tool_knows_the_facts_of_its_call(make_pool: MakePool) -> None:
    pool = make_pool("telling:facts")
    loop = asyncio.get_running_loop()
    call = Call(
        arguments={},
        caller=Caller(tenant="acme"),
        deadline=loop.time() + GUARD_S,
        attempt=2,
        job="j1",
        checkpoint=b"\0half",
    )

    facts = await pool.run(call)

    left = facts.pop("time_left")
    assert 0 < left <= GUARD_S
    assert facts == {
        "tenant": "acme",
        "attempt": 2,
        "job": "j1",
        "checkpointed": b"\0half",
        "cancelled": False,
    }


async def test_a_checkpoint_is_taken_before_the_tool_goes_on_and_has_a_limit(make_pool: MakePool) -> None:
    pool = make_pool("telling:save_state")

    value, told = await run(pool, size=1 << 20)

    assert (value, told) == (1 << 20, [Checkpoint(bytes(1 << 20))])
    with pytest.raises(ToolFailed, match="at most 1048576"):
        await run(pool, size=(1 << 20) + 1)


async def test_artifacts_are_read_and_saved_through_the_agent(make_pool: MakePool) -> None:
    pool = make_pool("telling:through_artifacts")
    shelf = Shelf({"artifacts/a": (b"quiet" * 1_000_000, "", "")})
    loop = asyncio.get_running_loop()

    def call(name: str, artifacts: Any) -> Call:
        return Call(
            arguments={"name": name}, caller=Caller(), deadline=loop.time() + GUARD_S, artifacts=artifacts
        )

    name = await pool.run(call("artifacts/a", shelf))

    assert shelf.kept[name] == (b"QUIET" * 1_000_000, "text/plain", "loud.txt")
    with pytest.raises(ToolFailed, match="ArtifactError: artifacts/x does not exist"):
        await pool.run(call("artifacts/x", shelf))
    with pytest.raises(ToolFailed, match="no artifact store"):
        await pool.run(call("artifacts/a", None))


async def test_a_generator_gives_its_items_one_by_one(make_pool: MakePool) -> None:
    value, told = await run(make_pool("telling:words"), text="one three")

    assert value is None
    assert told == [Chunk({"text": "one", "length": 3}), Chunk({"text": "three", "length": 5})]


async def test_a_slow_reader_holds_the_tool(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool("telling:count_up")
    path = tmp_path / "number"
    seen: list[tuple[int, int]] = []

    async def slow(event: Event) -> None:
        assert isinstance(event, Chunk)
        await asyncio.sleep(0.05)
        seen.append((event.value, int(path.read_text())))

    await pool.run(a_call(slow, path=str(path), most=5))

    assert seen == [(number, number) for number in range(5)]


async def test_a_reader_that_stands_still_costs_no_memory_and_the_deadline_holds(make_pool: MakePool) -> None:
    pool = make_pool("telling:flood")
    stood = asyncio.Event()

    async def never(_: Event) -> None:
        stood.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(pool.run(a_call(never, count=100_000)))
    await stood.wait()
    await asyncio.sleep(0.3)
    (worker,) = pool._busy
    held = len(worker._link._buffer)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert held < 1 << 20
    value, told = await run(pool, count=3)
    assert (value, len(told)) == (3, 3)


async def test_items_that_came_before_a_failure_have_come(make_pool: MakePool) -> None:
    pool = make_pool("telling:break_off")
    told: list[Event] = []

    async def sink(event: Event) -> None:
        told.append(event)

    with pytest.raises(ToolFailed, match="no more"):
        await pool.run(a_call(sink, count=2))

    assert told == [Chunk(b"\0"), Chunk(b"\1")]


async def test_an_item_of_the_wrong_type_or_size_ends_the_stream(make_pool: MakePool) -> None:
    with pytest.raises(InvalidToolOutput):
        await run(make_pool("telling:wrong_items"))
    with pytest.raises(ToolOutputTooLarge) as caught:
        await run(make_pool("hostile:endless_items", WorkerLimits(output_bytes=1000)), size=2000)

    assert caught.value.metadata["max_bytes"] == "1000"


async def test_a_sink_that_refuses_ends_the_call_with_its_own_error(make_pool: MakePool) -> None:
    pool = make_pool("hostile:endless_items")

    async def full(_: Event) -> None:
        raise NoSuchArtifact("nobody wants it")

    with pytest.raises(NoSuchArtifact):
        await pool.run(a_call(full, size=1))

    assert not pool._busy


async def test_a_progress_that_is_no_number_is_the_tools_mistake(make_pool: MakePool) -> None:
    with pytest.raises(ToolFailed, match="FrameError"):
        await run(make_pool("telling:progress_not_a_number"))


async def test_a_call_that_is_over_says_nothing_in_the_next_one(make_pool: MakePool) -> None:
    pool = make_pool("hostile:speak_after")

    _, first = await run(pool)
    await asyncio.sleep(0.4)
    _, second = await run(pool)

    assert first == second == []


async def test_a_cancelled_tool_with_a_grace_tidies_up_beside_the_next_call(
    make_pool: MakePool, tmp_path: Path, wait_until: WaitUntil
) -> None:
    pool = make_pool("telling:tidy_up", WorkerLimits(grace_s=30))
    first, second = tmp_path / "first", tmp_path / "second"
    told: list[Event] = []

    async def sink(event: Event) -> None:
        told.append(event)

    async def cancelled(path: Path) -> None:
        task = asyncio.create_task(pool.run(a_call(sink, path=str(path))))
        await wait_until(lambda: path.exists() and bool(path.read_text()))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    await cancelled(first)
    await cancelled(second)

    await wait_until(lambda: [path.read_text() for path in (first, second)] == ["tidied up"] * 2)
    await wait_until(lambda: not pool._farewells)
    assert told == [Checkpoint(b"tidy")] * 2


async def test_a_tool_that_does_not_heed_its_cancellation_is_killed_after_the_grace(
    make_pool: MakePool, tmp_path: Path, is_alive: Callable[[int], bool], wait_until: WaitUntil
) -> None:
    pool = make_pool("telling:stubborn", WorkerLimits(grace_s=0.3))
    path = tmp_path / "pid"
    task = asyncio.create_task(run(pool, path=str(path)))
    await wait_until(lambda: path.exists() and bool(path.read_text()))
    pid = int(path.read_text())

    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert is_alive(pid)
    await wait_until(lambda: not is_alive(pid))


async def test_without_a_grace_a_cancelled_tool_is_killed_at_once(
    make_pool: MakePool, tmp_path: Path, wait_until: WaitUntil
) -> None:
    pool = make_pool("telling:tidy_up")
    path = tmp_path / "pid"
    task = asyncio.create_task(run(pool, path=str(path)))
    await wait_until(lambda: path.exists() and bool(path.read_text()))

    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(0.2)

    assert path.read_text() != "tidied up"
    assert not pool._farewells


async def test_a_deadline_tells_a_tool_with_a_grace_in_time_to_answer(
    make_pool: MakePool, tmp_path: Path
) -> None:
    pool = make_pool("telling:tidy_up", WorkerLimits(grace_s=4))
    await pool.start()

    value, told = await run(pool, 5.0, path=str(tmp_path / "pid"))

    assert (value, told) == ("partial", [Checkpoint(b"tidy")])


async def test_many_cancelled_calls_do_not_pile_up_in_their_grace(
    make_pool: MakePool, tmp_path: Path, wait_until: WaitUntil
) -> None:
    pool = make_pool("telling:stubborn", WorkerLimits(grace_s=30))

    for number in range(5):
        path = tmp_path / str(number)
        task = asyncio.create_task(run(pool, path=str(path)))
        await wait_until(lambda path=path: path.exists() and bool(path.read_text()))  # type: ignore[misc]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    assert len(pool._farewells) <= 2
