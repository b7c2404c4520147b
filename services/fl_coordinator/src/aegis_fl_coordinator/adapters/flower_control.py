"""Flower's Control API and bundle builder: the one module that knows them, pinned to one flwr version.

Flower documents no Python API for this, so everything private is imported here and covered by a
contract test against a real SuperLink.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import ssl
import tomllib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import httpx

from aegis_common.errors import ConfigurationError
from aegis_fl_coordinator.domain.errors import EngineRefused, EngineUnavailable, InvalidPublicKey
from aegis_fl_coordinator.domain.nodes import EngineNode, NodeState
from aegis_fl_coordinator.domain.ports import EngineState, EngineStatus
from aegis_fl_coordinator.domain.run import ConfigValue

if TYPE_CHECKING:
    from flwr.supercore.control import ControlHttpClient

T = TypeVar("T")
_TIMEOUT_S: Final = 10.0
_NOT_FOUND: Final = "404"
_FINISHED: Final = "finished"
_SUB_STATES: Final = {"completed": EngineState.COMPLETED, "stopped": EngineState.STOPPED}
_UNREGISTERED: Final = "unregistered"
_NODE_STATES: Final = {"online": NodeState.ONLINE, "offline": NodeState.OFFLINE}


class FlowerControl:
    """Client of one SuperLink.

    Args:
        address: `host:port` of SuperLink, on loopback or in the pod.
        ca: CA of its certificate, PEM; read again for each call, so that it can be rotated.
    """

    def __init__(self, address: str, *, ca: Path) -> None:
        self._address = address
        self._ca = ca
        self._client: tuple[bytes, ControlHttpClient] | None = None

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        if self._client is not None:
            self._client[1].close()
            self._client = None

    async def healthy(self) -> bool:
        """Return True when SuperLink answers its health path."""
        # Flower takes a second to import: here, before the first call, and not in the loop.
        await asyncio.to_thread(importlib.import_module, "flwr.supercore.control")
        try:
            context = ssl.create_default_context(cadata=self._ca.read_text("ascii"))
            async with httpx.AsyncClient(verify=context, timeout=_TIMEOUT_S, trust_env=False) as client:
                return (await client.get(f"https://{self._address}/health")).is_success
        except (httpx.HTTPError, OSError, ssl.SSLError):
            return False

    async def start_run(self, bundle: bytes, config: Mapping[str, ConfigValue]) -> int:
        """Submit an app bundle and return Flower's id of the run."""
        from flwr.common.serde import fab_to_proto, user_config_to_proto  # noqa: PLC0415
        from flwr.proto.control_pb2 import StartRunRequest  # noqa: PLC0415
        from flwr.supercore.fab import Fab  # noqa: PLC0415

        fab = fab_to_proto(Fab(hashlib.sha256(bundle).hexdigest(), bundle, {}))
        request = StartRunRequest(fab=fab, override_config=user_config_to_proto(dict(config)))
        answer = await self._call(lambda client: client.StartRun(request))
        if not answer.run_id:
            raise EngineRefused(f"Flower did not start the run: {answer.note}", note=answer.note)
        return int(answer.run_id)

    async def find_run(self, key: str, value: str) -> int | None:
        from flwr.proto.control_pb2 import ListRunsRequest  # noqa: PLC0415

        answer = await self._call(lambda client: client.ListRuns(ListRunsRequest()))
        found = [
            (run.pending_at, run_id)
            for run_id, run in answer.run_dict.items()
            if key in run.override_config and run.override_config[key].string == value
        ]
        return max(found)[1] if found else None

    async def status(self, engine_run: int) -> EngineStatus:
        from flwr.proto.control_pb2 import ListRunsRequest  # noqa: PLC0415

        request = ListRunsRequest(run_id=engine_run)
        try:
            answer = await self._call(lambda client: client.ListRuns(request))
        except EngineRefused as error:
            if error.metadata["code"] != _NOT_FOUND:
                raise
            return EngineStatus(EngineState.FAILED, "Flower does not know the run any more")
        status = answer.run_dict[engine_run].status
        if status.status != _FINISHED:
            return EngineStatus(EngineState.ACTIVE)
        # The details are prose that differs between releases: only the sub-status decides.
        return EngineStatus(_SUB_STATES.get(status.sub_status, EngineState.FAILED), status.details)

    async def stop_run(self, engine_run: int) -> None:
        from flwr.proto.control_pb2 import StopRunRequest  # noqa: PLC0415

        if (await self.status(engine_run)).state is EngineState.ACTIVE:
            await self._call(lambda client: client.StopRun(StopRunRequest(run_id=engine_run)))

    async def nodes(self) -> list[EngineNode]:
        from flwr.proto.control_pb2 import ListNodesRequest  # noqa: PLC0415

        answer = await self._call(lambda client: client.ListNodes(ListNodesRequest()))
        return [
            EngineNode(
                int(node.node_id),
                bytes(node.public_key).decode(),
                _NODE_STATES.get(node.status, NodeState.REGISTERED),
                _time(node.last_activated_at),
            )
            for node in answer.nodes_info
            if node.status != _UNREGISTERED
        ]

    async def register_node(self, public_key_pem: str) -> int:
        from flwr.proto.control_pb2 import RegisterNodeRequest  # noqa: PLC0415

        request = RegisterNodeRequest(public_key=public_key_pem.encode())
        try:
            answer = await self._call(lambda client: client.RegisterNode(request))
        except EngineRefused:
            known = [n.engine_node for n in await self.nodes() if n.public_key_pem == public_key_pem]
            if known:
                return known[0]
            raise InvalidPublicKey(
                "Flower does not take this key: it belonged to a node that was removed, or it is no NIST EC "
                "key; make a new one"
            ) from None
        return int(answer.node_id)

    async def unregister_node(self, engine_node: int) -> None:
        from flwr.proto.control_pb2 import UnregisterNodeRequest  # noqa: PLC0415

        request = UnregisterNodeRequest(node_id=engine_node)
        try:
            await self._call(lambda client: client.UnregisterNode(request))
        except EngineRefused:
            if any(node.engine_node == engine_node for node in await self.nodes()):
                raise

    async def _call(self, call: Callable[[ControlHttpClient], T]) -> T:
        def run() -> T:
            return call(self._connected())

        try:
            return await asyncio.to_thread(run)
        except httpx.HTTPStatusError as error:
            code = error.response.status_code
            if code >= 500:
                raise EngineUnavailable(f"Flower answered HTTP {code}", code=str(code)) from error
            text = error.response.text[:200]
            raise EngineRefused(
                f"Flower refused the call with HTTP {code}: {text}", code=str(code)
            ) from error
        except (httpx.HTTPError, OSError) as error:
            raise EngineUnavailable(
                f"SuperLink at {self._address} does not answer: {error!r}",
                address=self._address,
            ) from error

    def _connected(self) -> ControlHttpClient:
        from flwr.supercore.control import ControlHttpClient  # noqa: PLC0415

        ca = self._ca.read_bytes()
        if self._client is None or self._client[0] != ca:
            self.close()
            client = ControlHttpClient.from_server_address(
                self._address, insecure=False, root_certificates=ca, interceptors=[]
            )
            self._client = (ca, client)
        return self._client[1]


def build_bundle(folder: Path) -> bytes:
    """Build a Flower app folder into the bytes that run; the same files always give the same bytes.

    Raises:
        ConfigurationError: The folder is not a Flower app.
    """
    from flwr.cli.build import build_fab_from_disk  # noqa: PLC0415

    try:
        return build_fab_from_disk(folder)
    except Exception as error:
        raise ConfigurationError(
            f"{folder} is not a Flower app that can be built: {error}", folder=str(folder)
        ) from error


def app_config(folder: Path) -> dict[str, ConfigValue]:
    """Return what an app declares in `[tool.flwr.app.config]`, nested tables as dotted keys.

    Raises:
        ConfigurationError: The folder has no readable `pyproject.toml`.
    """
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
        declared = project["tool"]["flwr"]["app"].get("config", {})
    except (OSError, KeyError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{folder} is not a Flower app: {error!r}", folder=str(folder)) from error
    return dict(_flat(declared, ""))


def _flat(table: Mapping[str, object], prefix: str) -> list[tuple[str, ConfigValue]]:
    found: list[tuple[str, ConfigValue]] = []
    for key, value in table.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, bool | int | float | str):
            found.append((prefix + key, value))
    return found


def _time(text: str) -> datetime | None:
    return datetime.fromisoformat(text).astimezone(UTC) if text else None
