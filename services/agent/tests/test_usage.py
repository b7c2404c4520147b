"""What calls use is measured where the work is done, added up in memory, and brought to the ledger."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from aegis.carbon.v1 import ledger_service_pb2 as pb
from aegis_agent import AgentManager
from aegis_agent.adapters.ledger import UsagePost
from aegis_agent.domain.errors import ToolFailed, ToolTimeout
from aegis_agent.domain.usage import Spent, Stepped, Usage, UsedCall
from aegis_agent.domain.usage_book import UsageBook
from aegis_agent.testing.tools import burn, burn_and_fail, burn_for_ever
from aegis_common.ledger import LedgerAway

pytestmark = pytest.mark.asyncio(loop_scope="module")
NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


async def burn_here(seconds: float) -> float:
    begun = time.thread_time()
    while time.thread_time() - begun < seconds:
        pass
    await asyncio.sleep(0)
    return seconds


class Kept:
    def __init__(self) -> None:
        self.calls: list[UsedCall] = []

    def used(self, call: UsedCall) -> None:
        self.calls.append(call)


class Ledger:
    """Keeps what it is told; away as long as it is told to be."""

    def __init__(self) -> None:
        self.away = False
        self.fault = ""
        self.told: list[tuple[str, pb.Usage]] = []

    async def record(self, tenant: str, usages: Sequence[pb.Usage]) -> list[str]:
        if self.away:
            raise LedgerAway
        self.told += [(tenant, item) for item in usages]
        return [self.fault for _ in usages]


def book_of(**options: int) -> UsageBook:
    return UsageBook(clock=lambda: NOW, **options)


def call_of(tool: str = "t", *, tenant: str = "red", cpu_s: float | None = 2.0) -> UsedCall:
    return UsedCall(tenant, tool, "", Usage(cpu_s, 1 << 30), 3.6)


def post_of(book: UsageBook, ledger: Ledger) -> UsagePost:
    return UsagePost(book, ledger, zone="zones/DE", interval=timedelta(hours=1))


async def test_a_sync_tool_is_charged_its_childs_cpu_time(manager: AgentManager) -> None:
    kept = manager.dispatcher.uses = Kept()
    manager.register_tool("burn", burn)

    for seconds in (0.2, 0.0):
        await manager.dispatch("burn", {"seconds": seconds})

    first, second = (item.usage for item in kept.calls)
    assert first.cpu_s is not None
    assert second.cpu_s is not None
    assert 0.2 <= first.cpu_s < 5
    assert second.cpu_s < 0.2
    assert (first.peak_bytes or 0) > 1 << 20


async def test_a_call_that_fails_or_runs_out_of_time_is_charged_too(manager: AgentManager) -> None:
    kept = manager.dispatcher.uses = Kept()
    manager.register_tool("burn_and_fail", burn_and_fail)
    manager.register_tool("burn_for_ever", burn_for_ever)
    await manager.warm_up()

    with pytest.raises(ToolFailed):
        await manager.dispatch("burn_and_fail", {"seconds": 0.1})
    with pytest.raises(ToolTimeout):
        await manager.dispatch("burn_for_ever", {}, timeout=1.5)

    assert all((item.usage.cpu_s or 0) >= 0.1 for item in kept.calls)
    assert ["burn_and_fail", "burn_for_ever"] == [item.tool for item in kept.calls]


async def test_an_async_tool_is_charged_its_own_steps_alone(manager: AgentManager) -> None:
    kept = manager.dispatcher.uses = Kept()
    manager.register_tool("burn_here", burn_here)

    await asyncio.gather(*(manager.dispatch("burn_here", {"seconds": item}) for item in (0.2, 0.0)))

    used = sorted(item.usage.cpu_s or 0 for item in kept.calls)
    assert used[0] < 0.2 <= used[1] < 2


async def test_work_inside_work_is_charged_once() -> None:
    outer, inner = Spent(), Spent()

    async def work() -> None:
        await burn_here(0.1)
        await Stepped(burn_here(0.4), inner)

    await Stepped(work(), outer)

    assert 0.1 <= (outer.usage().cpu_s or 0) < 0.4 <= (inner.usage().cpu_s or 0)


async def test_a_stepped_work_is_cancelled_as_any_other() -> None:
    seen = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def stepped() -> None:
        await Stepped(work(), Spent())

    task = asyncio.create_task(stepped())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert task.cancelled()
    assert ["cancelled"] == seen


async def test_calls_of_one_minute_become_one_usage() -> None:
    book, ledger = book_of(), Ledger()
    for call in (call_of(), call_of(), call_of("u"), call_of(tenant="blue"), call_of(cpu_s=None)):
        book.used(call)

    await post_of(book, ledger).send()

    told = {(tenant, item.tool): item for tenant, item in ledger.told}
    assert {("red", "t"), ("red", "u"), ("blue", "t")} == told.keys()
    both = told["red", "t"]
    assert (2, 4.0, "zones/DE", pb.USAGE_KIND_CALL) == (both.units, both.cpu_seconds, both.zone, both.kind)
    assert both.memory_gib_hours == pytest.approx(0.002)
    assert (0, 0, 1) == (len(book), book.dropped, book.unmeasured)


async def test_what_a_dead_ledger_did_not_take_comes_again_under_the_same_id() -> None:
    book, ledger = book_of(), Ledger()
    post = post_of(book, ledger)
    book.used(call_of())
    ledger.away = True
    await post.send()
    first = book.take(1)[0].id
    book.used(call_of())
    ledger.away = False

    await post.send()

    assert first == ledger.told[0][1].id
    assert [1, 1] == [item.units for _, item in ledger.told]
    assert 2 == len({item.id for _, item in ledger.told})


async def test_a_full_book_drops_and_counts() -> None:
    book = book_of(max_sums=2)

    for tool in ("a", "b", "c", "a"):
        book.used(call_of(tool))

    assert (2, 1) == (len(book), book.dropped)


async def test_what_the_ledger_refuses_is_counted_and_not_sent_again() -> None:
    book, ledger = book_of(), Ledger()
    ledger.fault = "zone zones/DE does not exist"
    book.used(call_of())

    await post_of(book, ledger).send()

    assert (0, 1, 1) == (len(book), book.dropped, len(ledger.told))
