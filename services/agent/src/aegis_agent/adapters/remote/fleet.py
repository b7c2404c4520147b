"""The workers that are here, the tools that they bring, and which of them gets a call."""

from __future__ import annotations

import hashlib
import json
import logging
from datetime import timedelta
from typing import Final

from aegis.agent.v1 import worker_service_pb2 as pb
from aegis_agent.adapters.remote import specs
from aegis_agent.adapters.remote.errors import AgentDraining, NoWorker, TooManyWorkers
from aegis_agent.adapters.remote.group import Group, RemoteRunner
from aegis_agent.adapters.remote.policy import Grant
from aegis_agent.adapters.remote.session import Session, WorkerSession
from aegis_agent.adapters.tool_json import spec_to_json
from aegis_agent.adapters.validation import SchemaChecks
from aegis_agent.domain.errors import InvalidTool, ToolNameTaken
from aegis_agent.domain.registry import EVERYONE, Registry
from aegis_agent.domain.tool import Tool, ToolSpec
from aegis_common.errors import AegisError

HEARTBEAT: Final = timedelta(seconds=5)
MAX_WORKERS: Final = 256
_log: Final = logging.getLogger(__name__)


class ToolNotInPolicy(AegisError):
    kind = InvalidTool.kind
    reason = "TOOL_NOT_IN_POLICY"


class Fleet:
    """All workers of this agent.

    Args:
        registry: Where their tools appear and go.
        heartbeat: Time between two signs of life of a worker.
        max_workers: Most workers at once.
    """

    def __init__(
        self, registry: Registry, *, heartbeat: timedelta = HEARTBEAT, max_workers: int = MAX_WORKERS
    ) -> None:
        self._registry = registry
        self._max_workers = max_workers
        self._sessions: dict[str, WorkerSession] = {}
        self._groups: dict[tuple[str, str], list[Group]] = {}
        self._draining = False
        self.heartbeat: Final = heartbeat

    @property
    def workers(self) -> int:
        """How many are here."""
        return len(self._sessions)

    def find(self, session_id: str, *, peer: str) -> WorkerSession | None:
        """Return the session of that id, if it is that peer's."""
        found = self._sessions.get(session_id)
        mine = found is not None and found.peer == peer and not found.gone and not self._draining
        return found if mine else None

    def begin_drain(self) -> None:
        """Send every worker elsewhere; what runs goes on."""
        self._draining = True
        for session in self._sessions.values():
            session.send_away()

    def join(
        self, hello: pb.WorkerHello, *, peer: str, grant: Grant
    ) -> tuple[WorkerSession, list[pb.WorkerRefusal]]:
        """Take a worker in, with those of its tools that may be taken; return why the others may not.

        Raises:
            TooManyWorkers: As many are here as may be.
            AgentDraining: This agent is about to end.
        """
        if self._draining:
            raise AgentDraining("this agent is about to end; try again, and another one answers")
        if len(self._sessions) >= self._max_workers:
            raise TooManyWorkers(f"{len(self._sessions)} workers are connected; at most {self._max_workers}")
        session = WorkerSession(
            hello.worker,
            peer=peer,
            owner=grant.owner,
            credit=hello.slots,
            heartbeat=self.heartbeat,
            changed=self._changed,
        )
        self._sessions[session.id] = session
        refused = []
        concurrency: dict[str, int] = {}
        session.concurrency = concurrency
        for tool in hello.tools:
            concurrency[tool.name] = tool.concurrency
            try:
                self._bring(session, tool, grant)
            except AegisError as error:
                concurrency.pop(tool.name)
                refused.append(
                    pb.WorkerRefusal(tool=tool.name, reason=error.reason, message=error.message[:500])
                )
        return session, refused

    def leave(self, session: WorkerSession) -> None:
        """Take a worker out; the calls that it has end."""
        self._sessions.pop(session.id, None)
        self._withdraw(session)
        session.lose()

    def _changed(self, session: WorkerSession) -> None:
        if not session.taking:
            self._withdraw(session)
        for group in self._of(session):
            group.wake()

    def _of(self, session: Session) -> list[Group]:
        return [
            group
            for name in session.concurrency
            for group in self._groups.get((session.owner, name), ())
            if session in group.sessions
        ]

    def _bring(self, session: WorkerSession, message: pb.WorkerTool, grant: Grant) -> None:
        if not grant.allows(message.name):
            raise ToolNotInPolicy(
                f"the worker policy does not let {session.peer} bring {message.name!r}; it may bring: "
                f"{', '.join(grant.tools) or 'none'}"
            )
        self.bring(session, specs.from_message(message, owner=grant.owner))

    def bring(self, session: Session, spec: ToolSpec) -> None:
        """Let a session run calls of a tool, in the version and as described by *spec*.

        Raises:
            ToolNameTaken: The name is that of a tool that is no worker's.
            InvalidTool: The session has the tool already.
        """
        self._check_name(spec.name, session.owner)
        groups = self._groups.setdefault((session.owner, spec.name), [])
        group = next((item for item in groups if item.digest == _digest(spec)), None)
        if group is None:
            group = Group(session.owner, spec, _digest(spec))
            groups.append(group)
        elif session in group.sessions:
            raise InvalidTool(f"the worker brings {spec.name!r} twice", tool=spec.name)
        group.sessions.append(session)
        try:
            self._publish(session.owner, spec.name)
        except AegisError:
            self._withdraw_from(group, session)
            raise

    def _check_name(self, name: str, owner: str) -> None:
        """Refuse the name of a tool that is no worker's.

        Raises:
            ToolNameTaken: It is one.
        """
        if owner == EVERYONE:
            self._registry.check_replaceable(name)
        else:
            self._registry.check_free(name)
        found = self._registry.owned(name, owner=owner)
        if found is not None and not isinstance(found.tool.runner, RemoteRunner):
            raise ToolNameTaken(f"there is a tool {name!r} already", tool=name)

    def withdraw(self, session: Session, tool: str) -> None:
        """Give a session no further calls of a tool."""
        for group in self._of(session):
            if group.spec.name == tool:
                self._withdraw_from(group, session)

    def resized(self, session: Session) -> None:
        """Count what a session takes anew."""
        for group in self._of(session):
            self._publish(group.owner, group.spec.name)
            group.wake()

    def here(self) -> list[Group]:
        """Return the tools that new calls go to and that workers of this replica bring."""
        found = [groups[-1] for groups in self._groups.values() if groups]
        return [group for group in found if group.capacity_here]

    def group(self, owner: str, tool: str, digest: str) -> Group:
        """Return the workers of a tool that are described by *digest*.

        Raises:
            NoWorker: There are none.
        """
        groups = self._groups.get((owner, tool), ())
        found = next((item for item in groups if item.digest == digest), None)
        if found is None or not found.capacity_here:
            raise NoWorker.of(tool)
        return found

    def _withdraw(self, session: Session) -> None:
        for group in self._of(session):
            self._withdraw_from(group, session)

    def _withdraw_from(self, group: Group, session: Session) -> None:
        group.sessions.remove(session)
        if not group.sessions:
            key = (group.owner, group.spec.name)
            groups = self._groups.get(key, [])
            if group in groups:
                groups.remove(group)
            if not groups:
                self._groups.pop(key, None)
        self._publish(group.owner, group.spec.name, gone=group)
        group.wake()

    def _publish(self, owner: str, name: str, *, gone: Group | None = None) -> None:
        """Let new calls go to the newest version that somebody brings, and to none when nobody does."""
        groups = self._groups.get((owner, name), [])
        found = self._registry.owned(name, owner=owner)
        mine = found is not None and isinstance(found.tool.runner, RemoteRunner)
        if not groups:
            if mine and gone is not None and found is gone.registration:
                self._registry.remove(name, owner=owner)
            return
        newest = groups[-1]
        if newest.registration is None or found is not newest.registration:
            if found is not None and not mine:
                return  # a model of the tenant has taken the name since
            checks = SchemaChecks(newest.spec, foreign=True)
            tool = Tool(spec=newest.spec, runner=RemoteRunner(newest), checks=checks, at_workers=True)
            if owner == EVERYONE:
                self._registry.replace(tool)
            else:
                self._registry.swap(tool, tenant=owner)
            newest.registration = self._registry.owned(name, owner=owner)
        if newest.registration is not None:
            newest.registration.admission.resize(newest.capacity)


def _digest(spec: ToolSpec) -> str:
    said = {**spec_to_json(spec), "concurrency": 0}  # workers may be of different sizes
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
