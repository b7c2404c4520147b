"""Files change under a running gateway: keys, certificates, routes, limits."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from aegis_common.testing.pki import Mesh
from aegis_common.testing.ports import free_ports
from aegis_gateway.config import GatewaySettings, render
from aegis_gateway.follow import follow
from aegis_gateway.testing import running_gateway
from aegis_gateway.tree import load

ZONES = "/v1/zones"


def client(mesh: Mesh, address: str, account: str = "") -> httpx.Client:
    context = ssl.create_default_context(cafile=str(mesh.tls("gateway").bundle))
    if account:
        context.load_cert_chain(mesh.tls(account).cert, mesh.tls(account).key)
    return httpx.Client(verify=context, base_url=f"https://{address}", trust_env=False)


def eventually(check: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 20
    while not check():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def _served_certificate(stack: Any) -> bytes:
    context = ssl.create_default_context(cafile=str(stack.mesh.tls("gateway").bundle))
    host, port = stack.gateway.settings.people_listen.split(":")
    with (
        socket.create_connection((host, int(port))) as plain,
        context.wrap_socket(plain, server_hostname=host) as tls,
    ):
        return tls.getpeercert(binary_form=True) or b""


def test_a_new_signing_key_in_the_key_file_is_accepted_and_a_removed_one_is_not(stack: Any) -> None:
    old = stack.mesh.token()
    stack.mesh.rotate_token_key(keep_old=True)
    render(stack.gateway.settings, stack.gateway.folder)
    new = stack.people(stack.mesh.token())

    eventually(lambda: new.get(ZONES).status_code == 200, "the new key is not accepted")
    assert stack.people(old).get(ZONES).status_code == 200

    stack.mesh.rotate_token_key()
    render(stack.gateway.settings, stack.gateway.folder)
    eventually(lambda: stack.people(old).get(ZONES).status_code == 401, "the removed key is still accepted")


def test_follow_renders_again_when_the_identities_change(
    settings: GatewaySettings, mesh: Mesh, tmp_path: Path
) -> None:
    identities = tmp_path / "identities.json"
    identities.write_bytes(mesh.identities.read_bytes())
    mine = settings.model_copy(update={"identities": identities})
    render(mine, tmp_path / "out")
    rbac = tmp_path / "out" / "ecds" / "rbac_machines.yaml"
    before = "sa/fl-node-site-1" in rbac.read_text()
    stop = threading.Event()
    follower = threading.Thread(
        target=lambda: follow(
            lambda: mine, tmp_path / "out", settings_file=None, alive=lambda: not stop.is_set()
        )
    )
    follower.start()
    try:
        identities.write_text('{"schema_version": 1, "identities": {}}')
        eventually(lambda: "sa/fl-node-site-1" not in rbac.read_text(), "nothing was rendered")
        identities.write_text("broken")
        time.sleep(1.5)
    finally:
        stop.set()
        follower.join()

    assert before
    assert load(rbac.read_text())["resources"][0]["name"] == "rbac"


def test_a_new_certificate_is_served_without_a_failed_call(stack: Any) -> None:
    before = _served_certificate(stack)
    door = stack.machines()
    stack.mesh.rotate("gateway")
    statuses: set[int] = set()

    def served() -> bool:
        statuses.add(door.get("/v1/tools").status_code)
        return _served_certificate(stack) != before

    eventually(served, "the old certificate is still served")
    assert statuses == {200}


def test_rendered_again_with_another_setting_it_is_taken_over_live(stack: Any) -> None:
    changed = stack.gateway.settings.model_copy(update={"cors_origins": ("https://other.test",)})
    asked = {"origin": "https://other.test", "access-control-request-method": "GET"}
    door = stack.people()

    def allowed() -> bool:
        return "access-control-allow-origin" in door.options(ZONES, headers=asked).headers

    before = allowed()
    render(changed, stack.gateway.folder)
    eventually(allowed, "the new origin is refused")
    render(stack.gateway.settings, stack.gateway.folder)
    eventually(lambda: not allowed(), "the old origin is not back")

    assert before is False
    assert stack.gateway.stat("envoy_http_rds_update_rejected") == 0


def test_a_caller_over_its_rate_is_told_when_to_come_back(stack: Any, tmp_path: Path) -> None:
    machines, people, ops = (f"127.0.0.1:{port}" for port in free_ports(3))
    slow = stack.gateway.settings.model_copy(
        update={
            "requests_per_second": 1,
            "request_burst": 2,
            "machines_listen": machines,
            "people_listen": people,
            "ops_listen": ops,
        }
    )
    with running_gateway(slow, tmp_path) as gateway, client(stack.mesh, people) as door:
        greedy = {"authorization": f"Bearer {stack.mesh.token('greedy')}"}
        modest = {"authorization": f"Bearer {stack.mesh.token('modest')}"}
        answers = [door.get("/v1/tools", headers=greedy) for _ in range(6)]
        other = door.get("/v1/tools", headers=modest)
        with client(stack.mesh, machines, "sdk") as machine:
            by_certificate = {machine.get("/v1/tools").status_code for _ in range(6)}
        shown = gateway.settings.requests_per_second

    limited = [answer for answer in answers if answer.status_code == 429]
    assert limited
    assert limited[0].json()["code"] == 8
    assert int(limited[0].headers["retry-after"]) >= shown
    assert other.status_code != 429
    assert 429 in by_certificate
