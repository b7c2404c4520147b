"""The nodes of the sites: who may take part, and who is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aegis_common.clock import Clock
from aegis_fl_coordinator.domain.errors import EngineUnavailable
from aegis_fl_coordinator.domain.grids import Site
from aegis_fl_coordinator.domain.nodes import EngineNode, Node, NodeState, NodeStatus
from aegis_fl_coordinator.domain.ports import Engine, RunStore
from aegis_fl_coordinator.domain.run import EngineKind, TrainingRun


class NodeRegistry:
    """Nodes of all tenants; every method sees one tenant only."""

    def __init__(
        self, *, store: RunStore, engine: Engine, clock: Clock, coordinator: Site | None = None
    ) -> None:
        self._coordinator = coordinator or Site()
        self._store = store
        self._engine = engine
        self._clock = clock

    async def register(
        self,
        tenant: str,
        node_id: str,
        *,
        public_key_pem: str,
        zone: str,
        watts: float,
        labels: Mapping[str, str],
    ) -> NodeStatus:
        """Admit a node; the same name and key again change nothing.

        Args:
            tenant: Owner of the node.
            node_id: The part after `nodes/`.
            public_key_pem: EC P-384 key, SubjectPublicKeyInfo PEM, in canonical form.
            zone: Resource name of its grid zone, or empty.
            watts: Power that it draws while it trains; 0 if that is not known.
            labels: What its site says of it.

        Raises:
            NodeExists: The name or the key belongs to another node.
            InvalidPublicKey: Flower does not take the key.
            EngineUnavailable: Flower does not answer.
        """
        known = self._store.same_node(tenant, node_id, public_key_pem)
        if known is None:
            engine_node = await self._engine.register_node(public_key_pem)
            node = Node(tenant, node_id, public_key_pem, zone, engine_node, self._clock(), watts, labels)
            known = self._store.add_node(node)
        return await self._status(known)

    async def get(self, tenant: str, node_id: str) -> NodeStatus:
        """Return a node.

        Raises:
            UnknownNode: The tenant has no such node.
            EngineUnavailable: Flower does not answer.
        """
        return await self._status(self._store.get_node(tenant, node_id))

    async def list(self, tenant: str) -> list[NodeStatus]:
        """Return the tenant's nodes, ordered by name.

        Raises:
            EngineUnavailable: Flower does not answer.
        """
        nodes = self._store.list_nodes(tenant)
        seen = await self._engine.nodes() if nodes else ()
        return [_status(node, seen) for node in nodes]

    async def online(self, run: TrainingRun) -> int:
        """Return how many of the nodes that a run selects are online."""
        return len(_online(await self.list(run.tenant), run))

    @property
    def coordinator(self) -> Site:
        """Where the coordinator is."""
        return self._coordinator

    def declared(self, tenant: str) -> Mapping[str, Site]:
        """Return where each node of the tenant is, and what it draws, by its resource name."""
        return {node.name: Site(node.zone, node.watts) for node in self._store.list_nodes(tenant)}

    async def sites(self, run: TrainingRun) -> Sequence[Site]:
        """Return where a run's work is done: at the coordinator, and at those of its nodes that are online.

        While Flower does not answer, all nodes that the run selects count.
        """
        if run.spec.engine is EngineKind.IN_PROCESS:
            return [self._coordinator]
        try:
            nodes = _online(await self.list(run.tenant), run)
        except EngineUnavailable:
            nodes = self._selected(run)
        return [self._coordinator, *(Site(node.zone, node.watts) for node in nodes)]

    def names(self, run: TrainingRun) -> Mapping[int, str]:
        """Return the engine's id of each node that a run selects, to its resource name."""
        return {node.engine_node: node.name for node in self._selected(run)}

    def missing(self, online: int, run: TrainingRun) -> str:
        """Return why a run waits that has *online* nodes, which are too few."""
        message = f"{online} of {run.spec.min_nodes} nodes are online"
        if not run.spec.nodes:
            return message
        known = len(self._selected(run))
        fault = f"{known} {'node is' if known == 1 else 'nodes are'} registered that the run takes"
        return f"{message}; {fault}: {run.spec.nodes}"

    def _selected(self, run: TrainingRun) -> Sequence[Node]:
        return [node for node in self._store.list_nodes(run.tenant) if run.spec.nodes.selects(node)]

    async def remove(self, tenant: str, node_id: str) -> None:
        """Remove a node from Flower first, then from the registry, so that a repeat after a crash works.

        Raises:
            UnknownNode: The tenant has no such node.
            EngineUnavailable: Flower does not answer.
        """
        node = self._store.get_node(tenant, node_id)
        await self._engine.unregister_node(node.engine_node)
        self._store.remove_node(tenant, node_id)

    async def _status(self, node: Node) -> NodeStatus:
        return _status(node, await self._engine.nodes())


def _online(seen: Sequence[NodeStatus], run: TrainingRun) -> Sequence[Node]:
    there = [status.node for status in seen if status.state is NodeState.ONLINE]
    return [node for node in there if run.spec.nodes.selects(node)]


def _status(node: Node, seen: Sequence[EngineNode]) -> NodeStatus:
    for one in seen:
        if one.engine_node == node.engine_node:
            return NodeStatus(node, one.state, one.last_active)
    return NodeStatus(node, NodeState.REGISTERED, None)
