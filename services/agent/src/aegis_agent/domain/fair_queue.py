"""The order in which waiting calls start: by class, and inside a class by each tenant's share of the time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from aegis_agent.domain.call import Priority
from aegis_agent.domain.heap import KeyedHeap

Weights = Mapping[str, float]
"""Tenant to its weight, above 0; a tenant that is not named has weight 1."""

PATIENCE: Final = 9
"""Starts of other classes that a waiting call of a lower class sees; the next start is its class's."""

_RESERVED_SHARE: Final = 8
_REMEMBERED: Final = 32
_NEWEST: Final = 0.25


@dataclass(slots=True, eq=False)
class Claim:
    """One call that wants a slot.

    Attributes:
        deadline: When its work has to have stopped, on the clock of the event loop, seconds.
        limit: The call's whole time, for messages.
        turn: Done when its wait is over; set by whoever lets it wait.
        charged_s: Slot time that its tenant has been charged for it.
    """

    tenant: str
    priority: Priority
    deadline: float
    limit: timedelta = timedelta(0)
    turn: Any = None
    charged_s: float = 0.0


@dataclass(slots=True)
class _Share:
    """What one tenant has had of a class, in virtual seconds, and what it still waits for.

    Attributes:
        held_s: How long its calls hold a slot, the last ones counting most; 0 while none has ended.
    """

    weight: float
    had: float
    held_s: float = 0.0
    waiting: OrderedDict[Claim, None] = field(default_factory=OrderedDict)


class _Class:
    """The waiting calls of one priority. The tenant that has had least, by weight, comes first."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._shares: dict[str, _Share] = {}
        self._order: KeyedHeap[str] = KeyedHeap()
        self._longest: KeyedHeap[str] = KeyedHeap()
        self._now = 0.0
        self._active_weight = 0.0
        self.count = 0
        self.passed_over = 0

    def put(self, claim: Claim) -> None:
        share = self._share(claim.tenant)
        if not share.waiting:
            self._active_weight += share.weight
            self._order.put(claim.tenant, max(share.had, self._now))
        share.waiting[claim] = None
        self.count += 1
        self._measure(claim.tenant, share)

    def pop(self) -> Claim:
        tenant = self._order.first()
        if tenant is None:
            raise LookupError("nothing waits")
        claim = next(iter(self._shares[tenant].waiting))
        self.remove(claim)
        return claim

    def remove(self, claim: Claim) -> bool:
        share = self._shares.get(claim.tenant)
        if share is None or claim not in share.waiting:
            return False
        del share.waiting[claim]
        self.count -= 1
        self._measure(claim.tenant, share)
        if not share.waiting:
            self._active_weight -= share.weight
            self._order.discard(claim.tenant)
        if not self.count:
            self.passed_over, self._active_weight = 0, 0.0
        return True

    def charge(self, tenant: str, seconds: float) -> float:
        """Count a start, and return the seconds charged: as the tenant's own calls take, else *seconds*.

        Were it what another tenant's calls take, one with short calls would be charged too much at first,
        and what it gets back later would be lost: the virtual time has gone on meanwhile.
        """
        share = self._share(tenant)
        begin = max(share.had, self._now)
        self._now = begin
        charged = share.held_s or seconds
        self._had(tenant, share, begin + charged / share.weight)
        return charged

    def settle(self, tenant: str, seconds: float, *, charged: float) -> None:
        """Add what a call held its slot longer (or shorter) than it was charged for."""
        share = self._share(tenant)
        share.held_s += (seconds - share.held_s) * (_NEWEST if share.held_s else 1.0)
        self._had(tenant, share, share.had + (seconds - charged) / share.weight)

    def ahead(self, tenant: str) -> float:
        """Return how many of the class start before a call that *tenant* adds now, about."""
        share = self._share(tenant)
        others = self._active_weight - (share.weight if share.waiting else 0.0)
        turns = (len(share.waiting) + 1) * (1 + others / share.weight)
        return min(float(self.count), turns - 1)

    def longest(self, *, beside: str) -> Claim | None:
        """Return the newest call of the tenant that waits with most, by weight.

        None when *beside*, with one call more, would wait with as much.
        """
        tenant = self._longest.first()
        if tenant is None:
            return None
        share, other = self._shares[tenant], self._share(beside)
        if tenant == beside or len(share.waiting) / share.weight <= (len(other.waiting) + 1) / other.weight:
            return None
        return next(reversed(share.waiting))

    def newest_of_longest(self) -> Claim | None:
        tenant = self._longest.first()
        return None if tenant is None else next(reversed(self._shares[tenant].waiting))

    def _had(self, tenant: str, share: _Share, had: float) -> None:
        share.had = had
        if share.waiting:
            self._order.put(tenant, had)

    def _measure(self, tenant: str, share: _Share) -> None:
        if share.waiting:
            self._longest.put(tenant, -len(share.waiting) / share.weight)
        else:
            self._longest.discard(tenant)

    def _share(self, tenant: str) -> _Share:
        share = self._shares.get(tenant)
        if share is None:
            if len(self._shares) > 3 * len(self._order) + 2 * _REMEMBERED:
                self._forget()
            share = self._shares[tenant] = _Share(self._weights.get(tenant, 1.0), self._now)
        return share

    def _forget(self) -> None:
        """Drop tenants that wait for nothing, but for those that have had most beyond who comes anew."""
        idle = sorted(
            (item.had, name)
            for name, item in self._shares.items()
            if not item.waiting and item.had > self._now
        )
        kept = {name for _, name in idle[-len(self._order) - _REMEMBERED :]}
        self._shares = {name: item for name, item in self._shares.items() if item.waiting or name in kept}


class FairQueue:
    """Waiting calls.

    - Classes are served strictly in order, but for a small share: a class that has been passed over
      `PATIENCE` times while it waited is served next.
    - Inside a class tenants share the time of the slots by weight; a tenant's calls start in their order.
    - When it is full, a call pushes out another of a lower class, or of a tenant that waits with more by
      weight, so that nobody can keep the others out. A few places are each class's own.

    Every operation takes O(log n) of the number of tenants, or less.

    Args:
        size: Most calls that wait; None means any number.
        weights: Shares of tenants.
    """

    def __init__(self, size: int | None, weights: Weights) -> None:
        self._size = size
        self._own = max(1, size // _RESERVED_SHARE) if size is not None and size >= len(Priority) else 0
        self._classes: Final = tuple(_Class(weights) for _ in Priority)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def counts(self) -> tuple[int, ...]:
        """Return how many calls of each class wait, the highest class first."""
        return tuple(item.count for item in self._classes)

    def put(self, claim: Claim) -> None:
        self._classes[claim.priority].put(claim)
        self._count += 1

    def pop(self) -> Claim | None:
        """Take out the call that starts next; None when none waits."""
        waiting = [item for item in self._classes if item.count]
        if not waiting:
            return None
        chosen = next((item for item in waiting if item.passed_over >= PATIENCE), waiting[0])
        for item in waiting:
            item.passed_over = 0 if item is chosen else item.passed_over + 1
        self._count -= 1
        return chosen.pop()

    def remove(self, claim: Claim) -> bool:
        """Take *claim* out; return whether it was in."""
        found = self._classes[claim.priority].remove(claim)
        self._count -= found
        return found

    def full(self) -> bool:
        return self._size is not None and self._count >= self._size

    def victim(self, claim: Claim) -> Claim | None:
        """Return the call that has to go so that *claim* may wait in a full queue; None when it may not."""
        own = self._classes[claim.priority]
        lower_first = [(i, item) for i, item in enumerate(self._classes) if item.count > self._own][::-1]
        if own.count < self._own:
            return next((item.newest_of_longest() for _, item in lower_first if item is not own), None)
        for index, item in lower_first:
            if index > claim.priority:
                return item.newest_of_longest()
        return own.longest(beside=claim.tenant)

    def charge(self, claim: Claim, seconds: float) -> None:
        """Count a start; *seconds* is what is expected while nothing is known of the tenant's own calls."""
        claim.charged_s = self._classes[claim.priority].charge(claim.tenant, seconds)

    def settle(self, claim: Claim, seconds: float) -> None:
        """Count that the call has held its slot for *seconds* in all."""
        self._classes[claim.priority].settle(claim.tenant, seconds, charged=claim.charged_s)

    def ahead(self, claim: Claim) -> float:
        """Return how many calls start before *claim* if it is put in now, about."""
        higher = sum(item.count for item in self._classes[: claim.priority])
        return higher + self._classes[claim.priority].ahead(claim.tenant)
