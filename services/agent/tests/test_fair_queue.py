"""The queue of waiting calls: classes, shares of tenants, places in a full queue, and its heap."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter

import pytest

from aegis_agent.domain.call import Priority
from aegis_agent.domain.fair_queue import PATIENCE, Claim, FairQueue
from aegis_agent.domain.heap import KeyedHeap
from aegis_agent.domain.slots import Slots

FAR = 1e9


def claim(tenant: str = "a", priority: Priority = Priority.NORMAL) -> Claim:
    return Claim(tenant, priority, FAR)


def drained(queue: FairQueue, count: int, *, seconds: float = 1.0) -> list[Claim]:
    found = []
    for _ in range(count):
        item = queue.pop()
        assert item is not None
        queue.charge(item, seconds)
        found.append(item)
    return found


def test_a_higher_class_starts_first() -> None:
    queue = FairQueue(None, {})
    for priority in (Priority.LOW, Priority.HIGH, Priority.NORMAL, Priority.HIGH):
        queue.put(claim(priority=priority))

    assert [item.priority for item in drained(queue, 4)] == [0, 0, 1, 2]


def test_a_lower_class_gets_one_start_in_ten() -> None:
    queue = FairQueue(None, {})
    for _ in range(200):
        queue.put(claim(priority=Priority.HIGH))
        queue.put(claim(priority=Priority.LOW))

    order = [item.priority for item in drained(queue, 100)]

    assert Counter(order) == {Priority.HIGH: 90, Priority.LOW: 10}
    assert order[: PATIENCE + 1] == [Priority.HIGH] * PATIENCE + [Priority.LOW]


def test_calls_of_one_tenant_start_in_their_order() -> None:
    queue = FairQueue(None, {})
    items = [claim() for _ in range(20)]
    for item in items:
        queue.put(item)

    assert drained(queue, 20) == items


@pytest.mark.parametrize("weights", [{}, {"b": 2.0}, {"a": 0.5, "b": 1.5, "c": 4.0}])
def test_tenants_share_the_time_by_weight(weights: dict[str, float]) -> None:
    queue = FairQueue(None, weights)
    for tenant in "abc":
        for _ in range(2000):
            queue.put(claim(tenant))

    starts = Counter(item.tenant for item in drained(queue, 1200))

    whole = sum(weights.get(tenant, 1.0) for tenant in "abc")
    for tenant in "abc":
        assert starts[tenant] == pytest.approx(1200 * weights.get(tenant, 1.0) / whole, abs=3)


def test_a_tenant_with_longer_calls_gets_fewer_of_them() -> None:
    queue = FairQueue(None, {})
    for tenant in "ab":
        for _ in range(500):
            queue.put(claim(tenant))

    time = Counter[str]()
    for _ in range(300):
        (item,) = drained(queue, 1, seconds=0.001)
        held = 4.0 if item.tenant == "a" else 1.0
        queue.settle(item, held)
        time[item.tenant] += int(held)

    assert time["a"] == pytest.approx(time["b"], rel=0.05)


def test_a_tenant_that_comes_late_has_no_credit_for_the_time_before() -> None:
    queue = FairQueue(None, {})
    for _ in range(300):
        queue.put(claim("a"))
    drained(queue, 200)
    for _ in range(100):
        queue.put(claim("b"))

    starts = Counter(item.tenant for item in drained(queue, 40))

    assert starts["a"] == pytest.approx(20, abs=2)


def test_what_never_waited_counts_too() -> None:
    queue = FairQueue(None, {})
    for _ in range(50):
        queue.charge(claim("a"), 1.0)  # started at once, as a slot was free
    for tenant in "ab":
        queue.put(claim(tenant))

    assert [item.tenant for item in drained(queue, 2)] == ["b", "a"]


def test_a_full_queue_gives_a_quiet_tenant_the_place_of_a_loud_one() -> None:
    queue = FairQueue(8, {})
    loud = [claim("loud") for _ in range(8)]
    for item in loud:
        queue.put(item)

    victims = []
    for _ in range(6):
        newcomer = claim("quiet")
        victim = queue.victim(newcomer)
        victims.append(victim)
        if victim is not None:
            queue.remove(victim)
            queue.put(newcomer)

    assert victims == [*reversed(loud[4:]), None, None]


def test_a_full_queue_gives_a_higher_class_the_place_of_a_lower_one_but_not_the_last_places() -> None:
    queue = FairQueue(16, {})
    for _ in range(16):
        queue.put(claim(priority=Priority.LOW))
    while (victim := queue.victim(claim("b", Priority.HIGH))) is not None:
        queue.remove(victim)
        queue.put(claim("b", Priority.HIGH))

    assert queue.counts() == (14, 0, 2)
    assert queue.victim(claim("a", Priority.LOW)) is None


def test_a_class_that_waits_with_little_gets_a_place_even_from_a_higher_one() -> None:
    queue = FairQueue(16, {})
    for _ in range(16):
        queue.put(claim(priority=Priority.HIGH))

    victim = queue.victim(claim("b", Priority.LOW))

    assert victim is not None
    assert victim.priority is Priority.HIGH


@pytest.mark.parametrize("seed", range(10))
def test_whatever_happens_the_queue_counts_right_and_loses_nothing(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311  # repeatable
    queue = FairQueue(None, {"a": 3.0})
    inside: set[Claim] = set()
    for _ in range(3000):
        step = chance.random()
        if step < 0.5:
            item = claim(chance.choice("abcdefgh"), chance.choice(list(Priority)))
            queue.put(item)
            inside.add(item)
        elif step < 0.75 and inside:
            item = chance.choice(sorted(inside, key=id))
            assert queue.remove(item)
            assert not queue.remove(item)
            inside.discard(item)
        else:
            popped = queue.pop()
            assert (popped is None) == (not inside)
            if popped is not None:
                inside.remove(popped)
                queue.charge(popped, chance.random())
                if chance.random() < 0.5:
                    queue.settle(popped, chance.random())
        assert len(queue) == len(inside) == sum(queue.counts())
    rest = set(iter(queue.pop, None))

    assert rest == inside


@pytest.mark.parametrize("waits", [True, False])
def test_tenants_of_the_past_are_forgotten(waits: bool) -> None:
    queue = FairQueue(None, {})
    for number in range(5000):
        if waits:
            queue.put(claim(f"t{number}"))
            drained(queue, 1)
        else:
            queue.charge(claim(f"t{number}"), 1.0)

    assert len(queue._classes[Priority.NORMAL]._shares) < 100


def test_of_the_past_the_tenant_that_has_had_most_is_remembered() -> None:
    queue = FairQueue(None, {})
    for _ in range(2):
        queue.charge(claim("greedy"), 100.0)
    for number in range(5000):
        queue.charge(claim(f"t{number}"), 0.001)
    queue.put(claim("greedy"))
    queue.put(claim("new"))

    assert [item.tenant for item in drained(queue, 2)] == ["new", "greedy"]


@pytest.mark.parametrize("seed", range(5))
def test_the_heap_gives_the_lowest_rank_whatever_was_changed(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311  # repeatable
    heap: KeyedHeap[int] = KeyedHeap()
    ranks: dict[int, float] = {}
    for _ in range(2000):
        key = chance.randrange(50)
        if chance.random() < 0.7:
            ranks[key] = chance.random()
            heap.put(key, ranks[key])
        else:
            ranks.pop(key, None)
            heap.discard(key)
        first = heap.first()
        assert (None if first is None else ranks[first]) == min(ranks.values(), default=None)

    assert len(heap._heap) <= 2 * len(ranks) + 16


@pytest.mark.parametrize("capacity", [2, 4, 16])
@pytest.mark.parametrize(("weights", "share"), [({}, 0.5), ({"b": 3.0}, 0.25)])
def test_short_and_long_calls_on_several_slots_share_the_time_by_weight(
    capacity: int, weights: dict[str, float], share: float
) -> None:
    now = 0.0
    slots = Slots(capacity, size=None, weights=weights, clock=lambda: now)
    lengths, used = {"a": 1.0, "b": 0.02}, Counter[str]()
    running: list[tuple[float, int, Claim]] = []
    numbers = itertools.count()

    class Turn:
        def __init__(self, item: Claim) -> None:
            self.item = item

        def done(self) -> bool:
            return False

        def set_result(self, _: None) -> None:
            heapq.heappush(running, (now + lengths[self.item.tenant], next(numbers), self.item))

    def ask(tenant: str) -> None:
        item = claim(tenant)
        item.turn = Turn(item)
        slots.queue.put(item)

    for tenant in ["a", "b"] * (2 * capacity):
        ask(tenant)
    slots.resize(capacity)  # starts the first ones
    while now < 500:
        now, _, item = heapq.heappop(running)
        used[item.tenant] += 1
        ask(item.tenant)  # both always wait with as much
        slots.give_back(item, lengths[item.tenant])

    times = {tenant: count * lengths[tenant] for tenant, count in used.items()}
    assert times["a"] / sum(times.values()) == pytest.approx(share, abs=0.02)
