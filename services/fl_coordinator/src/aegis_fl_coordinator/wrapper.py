"""FlowerServerWrapper: a whole Flower server in one object, without the other services."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import secrets
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import psutil

from aegis_common.errors import ConfigurationError
from aegis_common.pki import spiffe_id_of
from aegis_fl_coordinator.adapters.flower_control import FlowerControl, build_bundle
from aegis_fl_coordinator.apps import BUNDLED
from aegis_fl_coordinator.domain.errors import EngineUnavailable, RunFailed
from aegis_fl_coordinator.domain.nodes import NodeState
from aegis_fl_coordinator.domain.ports import EngineState
from aegis_fl_coordinator.envoy import Identity, envoy_binary, envoy_command, write_edge_config
from aegis_fl_coordinator.flower import superlink_command, superlink_environment
from aegis_fl_coordinator.runfile import MODEL_FILE, ROUNDS_FILE, RUN_KEY, RunFile

__all__ = ["FlowerServerWrapper", "Identity", "ServerFiles", "TrainingResult"]

_START_S: Final = 60.0
_STOP_S: Final = 10.0
_LOOK_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """Files and names that a Flower server needs.

    Attributes:
        data_dir: Private folder for state, logs and the trained model; made if absent.
        edge: Certificate shown to the sites, and the CA of their client certificates.
        superlink: Certificate for 127.0.0.1 (IP SAN) and its CA; Flower's own port on loopback uses it.
        clients: SPIFFE ids that may connect: the sites', or the gateway's.
        node_keys: Name of each node to its public key file (EC P-384, SubjectPublicKeyInfo PEM).
        app: Flower app folder that trains; the bundled digits app by default.
    """

    data_dir: Path
    edge: Identity
    superlink: Identity
    clients: Sequence[str]
    node_keys: Mapping[str, Path]
    app: Path = BUNDLED / "digits"


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a run gave: a report per round (`aegis.fl.v1.Round` in JSON), and the model, if any."""

    rounds: Sequence[Mapping[str, Any]]
    model: Path | None


class FlowerServerWrapper:
    """Trains one app over the nodes that connect, without carbon gate and publication.

    Flower itself listens on loopback only; the given address is an Envoy's, which asks for a client
    certificate and lets nothing but Flower's Fleet API through.

    Args:
        num_rounds: Rounds to train. Range: 1 and up.
        min_clients: Nodes that a round needs. Range: 1 and up.
        files: Certificates and folders; `start` needs them, `is_available` does not.

    Raises:
        ConfigurationError: A number is out of range.
    """

    def __init__(
        self, num_rounds: int = 10, min_clients: int = 3, *, files: ServerFiles | None = None
    ) -> None:
        for name, value in (("num_rounds", num_rounds), ("min_clients", min_clients)):
            if value < 1:
                raise ConfigurationError(f"{name} is {value}; it must be at least 1", name=name)
        self.num_rounds: Final = num_rounds
        self.min_clients: Final = min_clients
        self._files = files
        self._processes: list[psutil.Popen] = []
        self._control: FlowerControl | None = None
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def is_available(self) -> bool:
        """Return True when Flower and Envoy are installed and, once started, enough nodes are online."""
        if importlib.util.find_spec("flwr") is None or not envoy_binary().exists():
            return False
        return self._control is None or asyncio.run(self._online(self._control)) >= self.min_clients

    def start(self, address: str = "0.0.0.0:8080") -> TrainingResult:  # the caller's choice; mTLS
        """Start the server on *address* (`ip:port`), run the app, and return when it is done.

        Raises:
            ConfigurationError: Certificates are missing, or a file or address cannot be used.
            RunFailed: The app failed, or the server was stopped.
        """
        files = self._files
        if files is None:
            raise ConfigurationError(
                "a Flower server is never started without TLS: give files=ServerFiles(...) with the "
                "certificates of the edge and of SuperLink"
            )
        self._stopping.clear()
        try:
            return asyncio.run(self._run(files, address))
        except EngineUnavailable as error:
            why = "the server was stopped" if self._stopping.is_set() else error.message
            raise RunFailed(why) from error
        finally:
            self.stop()

    def stop(self) -> None:
        """Stop the server and every process of it; may be called from another thread, and more than once."""
        self._stopping.set()
        control, self._control = self._control, None
        if control is not None:
            control.close()
        processes, self._processes = self._processes, []
        # Flower's helpers have sessions of their own: find them while their parents still live.
        tree = [*processes, *(child for parent in processes for child in _children(parent))]
        for process in tree:
            _signal(process, "terminate")
        _, alive = psutil.wait_procs(tree, timeout=_STOP_S)
        for process in alive:
            _signal(process, "kill")
        psutil.wait_procs(alive, timeout=_STOP_S)

    async def _run(self, files: ServerFiles, address: str) -> TrainingResult:
        files.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        port = _free_port()
        runs = files.data_dir / "runs"
        superlink = files.superlink
        command = superlink_command(
            port=port,
            database=files.data_dir / "superlink.db",
            cert=superlink.cert,
            key=superlink.key,
            ca=superlink.ca,
        )
        environment = superlink_environment(home=files.data_dir / "flower", serverapp_dir=runs)
        self._spawn("superlink", command, environment)
        control = self._control = FlowerControl(f"127.0.0.1:{port}", ca=superlink.ca)
        await self._until(control.healthy, "SuperLink")
        self._spawn("edge", envoy_command(_edge(files, address, port)), {})
        await self._until(lambda: _accepts(address), f"Envoy on {address}")
        nodes = {
            await control.register_node(path.read_text("ascii")): f"nodes/{name}"
            for name, path in files.node_keys.items()
        }
        run_id = f"run-{secrets.token_hex(6)}"
        traceparent = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
        RunFile(run_id, self.num_rounds, self.min_clients, traceparent, nodes, None).write(runs / run_id)
        bundle = await asyncio.to_thread(build_bundle, files.app)
        await self._follow(control, await control.start_run(bundle, {RUN_KEY: run_id}))
        return _result(runs / run_id)

    async def _follow(self, control: FlowerControl, engine_run: int) -> None:
        while True:
            status = await control.status(engine_run)
            if status.state is EngineState.COMPLETED:
                return
            if status.state is not EngineState.ACTIVE:
                raise RunFailed(f"the run ended as {status.state.value}: {status.details or 'no details'}")
            await self._pause()

    async def _until(self, ready: Any, what: str) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + _START_S
        while not await ready():
            ended = next((p for p in self._processes if p.poll() is not None), None)
            if ended is not None or loop.time() > end:
                raise ConfigurationError(f"{what} did not start; its log lies in data_dir")
            await self._pause()

    async def _pause(self) -> None:
        if self._stopping.is_set():
            raise RunFailed("the server was stopped")
        await asyncio.sleep(_LOOK_S)

    async def _online(self, control: FlowerControl) -> int:
        if not await control.healthy():
            return 0
        return sum(node.state is NodeState.ONLINE for node in await control.nodes())

    def _spawn(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        files = self._files
        if files is None:
            return
        with (files.data_dir / f"{name}.log").open("ab") as log:
            process = psutil.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        self._processes.append(process)


def _edge(files: ServerFiles, address: str, superlink_port: int) -> Path:
    return write_edge_config(
        files.data_dir / "edge",
        listen=address,
        own=files.edge,
        client_spiffe_id=files.clients[0],
        superlink_port=superlink_port,
        superlink_ca=files.superlink.ca,
        superlink_spiffe_id=spiffe_id_of(files.superlink.cert.read_bytes()),
        more_spiffe_ids=files.clients[1:],
    )


def _result(folder: Path) -> TrainingResult:
    lines = (folder / ROUNDS_FILE).read_text("utf-8").splitlines()
    model = folder / MODEL_FILE
    return TrainingResult([json.loads(line) for line in lines], model if model.exists() else None)


async def _accepts(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection("127.0.0.1" if host == "0.0.0.0" else host, int(port))  # noqa: S104
    except OSError:
        return False
    writer.close()
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _children(process: psutil.Popen) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _signal(process: psutil.Process, method: str) -> None:
    try:
        getattr(process, method)()
    except psutil.NoSuchProcess:
        return
