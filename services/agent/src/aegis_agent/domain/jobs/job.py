"""A job as a value: what was asked for, where it stands, and its attempts so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from aegis_agent.domain.call import Priority
from aegis_agent.domain.usage import UNMEASURED, Usage
from aegis_common.errors import AegisError, ErrorKind

KEPT_ATTEMPTS: Final = 50
"""Attempts that a job remembers: the last ones."""
MAX_LOSSES: Final = 5
"""Runners that an idempotent job may lose before it fails: it may be what ends them."""

_MESSAGE_LENGTH: Final = 2_000
_VALUE_LENGTH: Final = 500
_VALUES: Final = 50
"""What a job keeps of an error: a tool may put anything into one."""

_RETRYABLE_KINDS: Final = frozenset({ErrorKind.UNAVAILABLE, ErrorKind.RESOURCE_EXHAUSTED})
_RETRYABLE_REASONS: Final = frozenset({"TOOL_CRASHED", "WORKER_LOST"})


class State(Enum):
    """Each is one state of an MCP task, which has the value as its name."""

    WORKING = "working"
    INPUT_REQUIRED = "input_required"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Phase(Enum):
    """Where a job in `State.WORKING` is."""

    DEFERRED = "deferred"
    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"


class WaitReason(Enum):
    """What a deferred job waits for."""

    NOT_BEFORE = "not_before"
    CARBON = "carbon"
    BACKOFF = "backoff"
    TOOL_BUSY = "tool_busy"


class Outcome(Enum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"
    CANCELLED = "cancelled"
    HANDED_BACK = "handed_back"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a failed attempt is followed by another.

    Attributes:
        max_attempts: 1 to 20.
        initial_backoff: Upper bound of the pause before the second attempt; it doubles each time.
        max_backoff: Most that the bound grows to.
    """

    max_attempts: int = 1
    initial_backoff: timedelta = timedelta(seconds=1)
    max_backoff: timedelta = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class CarbonPolicy:
    """Wait for a clean grid.

    Attributes:
        zone: `zones/{zone}`, or empty for the carbon service's default.
        max_intensity: In gCO2e/kWh; None means a reservation, or where there are none the zone's threshold.
        max_wait: Longest wait; None means that the deadline decides, and `DEFAULT_MAX_WAIT` without one.
        duration: How long the job is expected to run; None means its timeout.
        pool: Capacity pool of which it takes a place, or empty.
    """

    zone: str = ""
    max_intensity: float | None = None
    max_wait: timedelta | None = None
    duration: timedelta | None = None
    pool: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """The carbon reservation of a job, as it was last seen.

    Attributes:
        name: `reservations/{reservation}`.
        number: Which of the job's waits it belongs to, as `Job.waits`.
        start_token: Fencing token of its start.
        planned_start: None while nothing is known of the grid.
        latest_start: When the job starts by itself.
        saving: Expected share of emissions saved, or None.
        started: Whether an attempt has started since.
    """

    name: str
    number: int
    start_token: int
    latest_start: datetime
    planned_start: datetime | None = None
    saving: float | None = None
    started: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CarbonAnswer:
    """What the carbon service said about starting; intensities in gCO2e/kWh.

    Attributes:
        hold: The reservation that it told of, or None.
    """

    run_now: bool
    reason: str
    asked: datetime
    intensity: float | None = None
    threshold: float | None = None
    source: str = ""
    retry_after: timedelta = timedelta()
    hold: Hold | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error as it is stored; the fields are those of an `AegisError`."""

    kind: ErrorKind
    reason: str
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, error: AegisError) -> Failure:
        return cls(
            kind=error.kind,
            reason=error.reason,
            message=plain_text(error.message, _MESSAGE_LENGTH),
            metadata=_plain_pairs(error.metadata),
            violations=_plain_pairs(error.violations),
        )

    @property
    def retryable(self) -> bool:
        """Whether another attempt may go better: a crash, something unreachable, exhausted resources."""
        return self.kind in _RETRYABLE_KINDS or self.reason in _RETRYABLE_REASONS


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One start of a job's tool; `outcome` and `ended` are None while it runs."""

    number: int
    runner: str
    started: datetime
    ended: datetime | None = None
    outcome: Outcome | None = None
    failure: Failure | None = None
    usage: Usage = UNMEASURED


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """What was asked for.

    Attributes:
        timeout: Longest time of one attempt.
        not_before: Earliest start, or None.
        deadline: When the job has to have ended, or None.
    """

    tool: str
    timeout: timedelta
    not_before: datetime | None = None
    deadline: datetime | None = None
    priority: Priority = Priority.NORMAL
    retry: RetryPolicy = RetryPolicy()
    carbon: CarbonPolicy | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def duration(self) -> timedelta:
        """How long the job is expected to run."""
        return self.timeout if self.carbon is None else self.carbon.duration or self.timeout

    @property
    def reserves(self) -> bool:
        """Whether its carbon policy is a reservation."""
        return self.carbon is not None and self.carbon.max_intensity is None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRef:
    """Which job, of whom."""

    tenant: str
    job_id: str

    @property
    def member(self) -> str:
        """As one text; a tenant has no `/`."""
        return f"{self.tenant}/{self.job_id}"

    @classmethod
    def of_member(cls, member: str) -> JobRef:
        tenant, _, job_id = member.partition("/")
        return cls(tenant=tenant, job_id=job_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job.

    Attributes:
        principal: Stored record of whom the tool runs for.
        creator: Subject of who created it.
        traceparent: W3C trace context that its attempts continue.
        request_id: Idempotency key, or empty.
        idempotent: Whether the tool was so at the last start, or at the creation.
        phase: None when the job has ended.
        wait_until: When a deferred job becomes ready without further ado.
        ask_carbon_at: When the carbon service is asked next, or None.
        latest_start: When a job with a carbon policy starts whatever the grid is like.
        hold: Its carbon reservation, or None.
        waits: How often it was retried: each time it waits for the grid anew.
        queue_number: How often it was put into a queue; tells its entry there from older ones.
        entry: Its entry in the queue while it runs, or empty.
        attempt: Number of the last attempt: the fence against whoever ran an earlier one.
        failures: Attempts that failed since it was created or retried; they count for the retry policy.
        losses: Runners that it lost since then.
        hand_backs: How often in a row a runner gave it back.
        obstacle: Why it could not be started when its turn came last, or None.
        tool_missed: Since when the runners that took it had no such tool, or None.
        runner: Process that runs it, or empty.
        revision: Counts the writes of the record.
    """

    tenant: str
    job_id: str
    spec: JobSpec
    principal: str
    creator: str
    traceparent: str
    created: datetime
    request_id: str = ""
    idempotent: bool = False
    tool_version: str = ""
    state: State = State.WORKING
    phase: Phase | None = Phase.QUEUED
    wait_reason: WaitReason | None = None
    wait_until: datetime | None = None
    ask_carbon_at: datetime | None = None
    latest_start: datetime | None = None
    hold: Hold | None = None
    waits: int = 0
    queue_number: int = 0
    entry: str = ""
    attempt: int = 0
    failures: int = 0
    losses: int = 0
    hand_backs: int = 0
    obstacle: Failure | None = None
    tool_missed: datetime | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    runner: str = ""
    started: datetime | None = None
    ended: datetime | None = None
    expires: datetime | None = None
    failure: Failure | None = None
    model_version: str = ""
    warnings: tuple[str, ...] = ()
    carbon_answer: CarbonAnswer | None = None
    revision: int = 0

    @property
    def ref(self) -> JobRef:
        return JobRef(tenant=self.tenant, job_id=self.job_id)

    @property
    def has_ended(self) -> bool:
        return self.state not in (State.WORKING, State.INPUT_REQUIRED)

    @property
    def runs(self) -> bool:
        return self.phase in (Phase.RUNNING, Phase.CANCELLING)

    @property
    def dead_letter(self) -> bool:
        """Whether it failed in a way that another attempt might mend."""
        return self.state is State.FAILED and self.failure is not None and self.failure.retryable

    @property
    def attempts_begun(self) -> int:
        """Attempts in which the tool's code may have run, the current one included."""
        return sum(1 for item in self.attempts if item.outcome is not Outcome.HANDED_BACK)


def plain_text(text: str, length: int) -> str:
    """Return *text* of at most so many characters, without the half characters that UTF-8 cannot carry."""
    return text[:length].encode("utf-8", "backslashreplace").decode()


def _plain_pairs(pairs: Mapping[str, str]) -> dict[str, str]:
    some = list(pairs.items())[:_VALUES]
    return {plain_text(key, _VALUE_LENGTH): plain_text(str(value), _VALUE_LENGTH) for key, value in some}
