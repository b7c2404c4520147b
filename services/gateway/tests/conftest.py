"""A mesh with stub services of every cluster behind a real gateway, once for all tests."""

from __future__ import annotations

import http.server
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import grpc
import httpx
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from aegis.agent.v1 import agent_service_pb2 as agent
from aegis.agent.v1 import agent_service_pb2_grpc as agent_grpc
from aegis.carbon.v1 import carbon_service_pb2 as carbon
from aegis.carbon.v1 import carbon_service_pb2_grpc as carbon_grpc
from aegis.fl.v1 import training_service_pb2 as fl
from aegis.fl.v1 import training_service_pb2_grpc as fl_grpc
from aegis_common.rpc.access import descriptor_pool_of_set, services_of_set
from aegis_common.settings import TokenSettings
from aegis_common.testing.pki import ISSUER, Mesh
from aegis_common.testing.ports import free_ports
from aegis_gateway.config import GatewaySettings
from aegis_gateway.testing import RunningGateway, running_gateway

NODE = "fl-node-site-1"


@dataclass
class Seen:
    """What the stubs were sent last, by method."""

    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    time_left: dict[str, float] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)

    def note(self, method: str, context: grpc.ServicerContext) -> None:
        self.metadata[method] = {key: str(value) for key, value in context.invocation_metadata()}
        self.time_left[method] = context.time_remaining()
        self.calls[method] = self.calls.get(method, 0) + 1


class Carbon(carbon_grpc.CarbonServiceServicer):
    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    def ListZones(self, request: Any, context: Any) -> Any:
        self.seen.note("ListZones", context)
        return carbon.ListZonesResponse(
            zones=[carbon.Zone(name="zones/GB")], next_page_token=str(request.page_size)
        )

    def GetIntensity(self, request: Any, context: Any) -> Any:
        detail = error_details_pb2.ErrorInfo(
            reason="UNKNOWN_ZONE", domain="carbon", metadata={"zone": request.zone}
        )
        status = status_pb2.Status(code=code_pb2.NOT_FOUND, message="no such zone")
        status.details.add().Pack(detail)
        context.abort_with_status(rpc_status.to_status(status))

    def CheckSchedule(self, request: Any, context: Any) -> Any:
        self.seen.note("CheckSchedule", context)
        if request.zone == "zones/DOWN":
            context.abort(grpc.StatusCode.UNAVAILABLE, "no data")
        return carbon.CheckScheduleResponse(decision=carbon.DECISION_RUN_NOW)


class Agent(agent_grpc.AgentServiceServicer):
    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    def ListTools(self, request: Any, context: Any) -> Any:
        self.seen.note("ListTools", context)
        return agent.ListToolsResponse()

    def Dispatch(self, request: Any, context: Any) -> Any:
        self.seen.note("Dispatch", context)
        if request.tool == "tools/slow":
            while context.is_active():
                time.sleep(0.02)
        if request.tool == "tools/down":
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return agent.DispatchResponse(tool=request.tool, tool_version=str(request.ByteSize()))


class Training(fl_grpc.TrainingServiceServicer):
    def WatchTrainingRun(self, request: Any, context: Any) -> Any:
        run = fl.TrainingRun(name=request.name)
        yield fl.WatchTrainingRunResponse(resume_token="1", state_change=run)
        yield fl.WatchTrainingRunResponse(resume_token="2", end=run)


@dataclass
class Upstream:
    """One stub service; `health` turns it on and off for the gateway."""

    port: int
    health: health.HealthServicer
    stop: Callable[[], None]

    def serving(self, on: bool) -> None:
        status = health_pb2.HealthCheckResponse
        self.health.set("", status.SERVING if on else status.NOT_SERVING)


def serve(mesh: Mesh, account: str, *registrations: tuple[Any, Any], reflect: bool = False) -> Upstream:
    tls = mesh.tls(account)
    server = grpc.server(
        ThreadPoolExecutor(8),
        options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 9 << 20)],
    )
    checks = health.HealthServicer()
    checks.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    for register, servicer in registrations:
        register(servicer, server)
    if reflect:
        names = [*services_of_set(), reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, server, pool=descriptor_pool_of_set())
    credentials = grpc.ssl_server_credentials(
        [(tls.key.read_bytes(), tls.cert.read_bytes())], tls.bundle.read_bytes(), require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    return Upstream(port, checks, lambda: stop(server))


def stop(server: grpc.Server) -> None:
    server.stop(0).wait()


class Fleet(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        answer = f"{self.path} {len(body)}".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        return


def serve_fleet(mesh: Mesh) -> tuple[int, Callable[[], None]]:
    tls = mesh.tls("fl-edge")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tls.bundle))
    context.load_cert_chain(tls.cert, tls.key)
    context.verify_mode = ssl.CERT_REQUIRED
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Fleet)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return int(server.server_address[1]), stop


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    mesh = Mesh(tmp_path_factory.mktemp("mesh"))
    node: dict[str, object] = {"tenant": "default", "roles": ["node"], "via_gateway": True}
    mesh.write_identities({mesh.spiffe_id(NODE): node})
    return mesh


@pytest.fixture
def settings(mesh: Mesh) -> GatewaySettings:
    """Settings whose upstreams are not there: enough to render and to validate."""
    return make_settings(mesh, [1001, 1002, 1003, 1004])


def make_settings(mesh: Mesh, upstreams: list[int]) -> GatewaySettings:
    machines, people, ops = free_ports(3)
    agent_port, carbon_port, fl_port, edge_port = upstreams
    return GatewaySettings(
        machines_listen=f"127.0.0.1:{machines}",
        people_listen=f"127.0.0.1:{people}",
        ops_listen=f"127.0.0.1:{ops}",
        tls=mesh.tls("gateway"),
        identities=mesh.identities,
        token=TokenSettings(issuer=ISSUER, jwks=str(mesh.jwks)),
        agent=f"127.0.0.1:{agent_port}",
        carbon=f"127.0.0.1:{carbon_port}",
        fl_coordinator=f"127.0.0.1:{fl_port}",
        fl_edge=f"127.0.0.1:{edge_port}",
        cors_origins=("https://console.aegis.test",),
    )


@pytest.fixture(scope="session")
def stack(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The gateway, its stubs and clients for both doors."""
    seen = Seen()
    with ExitStack() as exits:
        services = {
            "agent": serve(
                mesh,
                "agent",
                (agent_grpc.add_AgentServiceServicer_to_server, cast(Any, Agent)(seen)),
                reflect=True,
            ),
            "carbon": serve(
                mesh, "carbon", (carbon_grpc.add_CarbonServiceServicer_to_server, cast(Any, Carbon)(seen))
            ),
            "fl-coordinator": serve(
                mesh, "fl-coordinator", (fl_grpc.add_TrainingServiceServicer_to_server, cast(Any, Training)())
            ),
        }
        for service in services.values():
            exits.callback(service.stop)
        edge_port, stop_edge = serve_fleet(mesh)
        exits.callback(stop_edge)
        settings = make_settings(mesh, [*(service.port for service in services.values()), edge_port])
        gateway = exits.enter_context(running_gateway(settings, tmp_path_factory.mktemp("gw")))
        stack = SimpleNamespace(gateway=gateway, services=services, seen=seen, mesh=mesh)
        stack.machines = lambda account="sdk", token=None: exits.enter_context(
            client(mesh, gateway, account, token)
        )
        stack.people = lambda token=None: exits.enter_context(client(mesh, gateway, None, token))
        stack.machines_channel = lambda account="sdk": channel(mesh, gateway, account)
        stack.people_channel = lambda: channel(mesh, gateway, None)
        stack.await_health = lambda code: await_health(stack, code)
        stack.await_health(200)
        yield stack


def client(mesh: Mesh, gateway: RunningGateway, account: str | None, token: str | None) -> httpx.Client:
    tls = mesh.tls("gateway")
    context = ssl.create_default_context(cafile=str(tls.bundle))
    if account is not None:
        own = mesh.tls(account)
        context.load_cert_chain(own.cert, own.key)
    address = gateway.settings.people_listen if account is None else gateway.settings.machines_listen
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(
        verify=context, base_url=f"https://{address}", headers=headers, trust_env=False, timeout=30
    )


def channel(mesh: Mesh, gateway: RunningGateway, account: str | None) -> grpc.Channel:
    bundle = mesh.tls("gateway").bundle.read_bytes()
    if account is None:
        return grpc.secure_channel(gateway.settings.people_listen, grpc.ssl_channel_credentials(bundle))
    own = mesh.tls(account)
    credentials = grpc.ssl_channel_credentials(bundle, own.key.read_bytes(), own.cert.read_bytes())
    return grpc.secure_channel(gateway.settings.machines_listen, credentials)


def await_health(stack: Any, code: int) -> None:
    end = time.monotonic() + 30
    machines, people = stack.machines(), stack.people()
    answers: list[int] = []
    while time.monotonic() < end:
        answers = [door.get("/healthz").status_code for door in (machines, people)]
        if answers == [code, code]:
            return
        time.sleep(0.1)
    raise AssertionError(f"/healthz is {answers}, not {code}")
