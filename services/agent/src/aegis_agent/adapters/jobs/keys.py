"""Every key of the job store in Redis, and what lies there; all begin with `agent:jobs:`.

    agent:jobs:t:TENANT:job:ID        hash: `record` (JSON of the job), `revision`, `attempt` and `runner`
                                      (the fence), `phase`, `request`, `payload`, `result`, `checkpoint`,
                                      `progress`, `told` (attempt and how many of its events)
    agent:jobs:t:TENANT:events:ID     stream of the job's last events; goes an hour after the job's end
    agent:jobs:t:TENANT:request:UUID  `ID HASH` of the job that came with that request id
    agent:jobs:t:TENANT:index         sorted set of ids, which sort by time
    agent:jobs:t:TENANT:state:STATE   the same, of the jobs in one state
    agent:jobs:t:TENANT:ended         sorted set of the ids of ended jobs by the time when they ended
    agent:jobs:t:TENANT:queue:PRIORITY:TOOL  sorted set `ID NUMBER` of the jobs that wait for a slot, by place
    agent:jobs:t:TENANT:queue:PRIORITY       sorted set of the tools of which jobs wait, by their first place
    agent:jobs:bytes                  hash: bytes of payloads, results and checkpoints by tenant
    agent:jobs:place                  counter of places in queues
    agent:jobs:tenants                set of the tenants of which jobs wait
    agent:jobs:waiting                hash: how many jobs of each priority wait
    agent:jobs:running                stream of the jobs that a runner has in hand: `job` (TENANT/ID),
                                      `number`, `tool` and `weight`; pending in the consumer group `runners`,
                                      whose idle time is the lease
    agent:jobs:held                   hash: entries of the stream by tenant
    agent:jobs:shares                 hash: slot time in seconds by weight that each tenant has had; under the
                                      empty name, that of the tenant that was served last
    agent:jobs:turns                  hash: which class of a tenant is asked first at its next start
    agent:jobs:tools                  sorted set `OWNER/TOOL` (`/TOOL`: everyone's) by the time when a process
                                      said last that it has the tool
    agent:jobs:delayed                sorted set TENANT/ID by the time when a deferred job becomes ready
    agent:jobs:carbon                 the same by the time when the carbon service is asked next
    agent:jobs:deadlines              the same by deadline, of the jobs that do not run
    agent:jobs:expiry                 the same by the time when an ended job is deleted
    agent:jobs:usage                  stream of what ended attempts used, until the ledger has it
    agent:jobs:usage:dropped          counter of those that the full stream had no room for
    agent:jobs:holds                  stream of what became of jobs with a reservation, until carbon knows
    agent:jobs:holds:dropped          counter of those that the full stream had no room for
    agent:jobs:lease:NAME             which process keeps house
    agent:jobs:signals                channel: `work`, or `cancel TENANT/ID`
    agent:jobs:events:TENANT/ID       channel: the job has a new event

Everything that belongs to one change of a job is written by one script, so that no crash leaves half of it.
Scores are milliseconds since 1970 (UTC). Values are JSON or protobuf, never pickle.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from aegis_agent.domain.call import Priority
from aegis_agent.domain.jobs.job import JobRef, State

PREFIX: Final = "agent:jobs:"
GROUP: Final = "runners"
DELAYED: Final = f"{PREFIX}delayed"
CARBON: Final = f"{PREFIX}carbon"
DEADLINES: Final = f"{PREFIX}deadlines"
EXPIRY: Final = f"{PREFIX}expiry"
RUNNING: Final = f"{PREFIX}running"
WAITING: Final = f"{PREFIX}waiting"
USAGE: Final = f"{PREFIX}usage"
USAGE_DROPPED: Final = f"{USAGE}:dropped"
HOLDS: Final = f"{PREFIX}holds"
HOLDS_DROPPED: Final = f"{HOLDS}:dropped"
SIGNALS: Final = f"{PREFIX}signals"
WORK: Final = "work"
CANCEL: Final = "cancel"


def job(ref: JobRef) -> str:
    return f"{PREFIX}t:{ref.tenant}:job:{ref.job_id}"


def events(ref: JobRef) -> str:
    return f"{PREFIX}t:{ref.tenant}:events:{ref.job_id}"


def request(tenant: str, request_id: str) -> str:
    return f"{PREFIX}t:{tenant}:request:{request_id}"


def index(tenant: str, state: State | None = None) -> str:
    """Return the index of all jobs, or of those in one state."""
    return f"{PREFIX}t:{tenant}:" + (f"state:{state.value}" if state else "index")


def queue_class(priority: Priority) -> str:
    """Return a priority as it stands in keys."""
    return priority.name.lower()


def ended(tenant: str) -> str:
    return f"{PREFIX}t:{tenant}:ended"


def lease(name: str) -> str:
    return f"{PREFIX}lease:{name}"


def channel(ref: JobRef) -> str:
    """Return the channel on which new events of a job are announced."""
    return f"{PREFIX}events:{ref.member}"


def score(moment: datetime) -> int:
    """Return a moment as a score, in milliseconds."""
    return int(moment.timestamp() * 1000)
