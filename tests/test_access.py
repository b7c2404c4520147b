"""Every method, from both doors and at the service itself, lets in exactly whom its proto names."""

from __future__ import annotations

from functools import cache
from typing import Any

import grpc
import pytest

from aegis_common.pki import DevCa
from aegis_common.rpc.access import MethodRule, method_table, unserved_paths
from stack_support import Stack

ROLES = ("viewer", "operator", "trainer", "admin")
# What `aegis up` writes into the identities file.
ACCOUNT_ROLES: dict[str, set[str]] = {
    "sdk": {"operator", "trainer"},
    "admin": set(ROLES),
    "viewer": {"viewer"},
    "debugger": {"viewer"},
    # A certificate of our CA that the identities file does not know.
    "stranger": set(),
}
REFUSALS = {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED}
SERVICES = {
    "agent": ("aegis.agent", "inference."),
    "carbon": ("aegis.carbon",),
    "fl_coordinator": ("aegis.fl",),
}

PUBLIC = [
    rule
    for rule in method_table().values()
    if rule.path.startswith(("/aegis.", "/inference.")) and not rule.mesh_internal
]
INTERNAL = [rule for rule in method_table().values() if rule.mesh_internal]


def _id(rule: MethodRule) -> str:
    return f"{rule.service.rpartition('.')[2]}.{rule.method}"


def _code(channel: grpc.Channel, rule: MethodRule, token: str | None = None) -> grpc.StatusCode:
    """Call with an empty request, which every method that changes anything refuses as invalid."""
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    try:
        if rule.server_streaming:
            for _ in channel.unary_stream(rule.path, _same, _same)(b"", timeout=20, metadata=metadata):
                break
        else:
            channel.unary_unary(rule.path, _same, _same)(b"", timeout=20, metadata=metadata)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def _same(data: bytes) -> bytes:
    return data


class Doors:
    """Channels and tokens, made once."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.channel = cache(self._channel)
        self.token = cache(self._token)

    def _channel(self, port: str, account: str | None, service: str = "gateway") -> grpc.Channel:
        return self.stack.channel(port, account, service=service)

    def _token(self, role: str) -> str:
        return self.stack.token(role)


@pytest.fixture(scope="module")
def doors(stack: Stack) -> Doors:
    DevCa.load_or_create(stack.state / "ca").issue("stranger")
    return Doors(stack)


def _check(code: grpc.StatusCode, *, allowed: bool, who: str) -> None:
    assert code is not grpc.StatusCode.UNAVAILABLE, who
    assert (code not in REFUSALS) == allowed, f"{who}: {code.name}"


@pytest.mark.parametrize("rule", PUBLIC, ids=_id)
def test_people_by_their_role(doors: Doors, rule: MethodRule) -> None:
    channel = doors.channel("people", None)
    for role in ROLES:
        code = _code(channel, rule, doors.token(role))
        _check(code, allowed=role in rule.roles, who=role)
    _check(_code(channel, rule), allowed=rule.public, who="anonymous")


@pytest.mark.parametrize("rule", PUBLIC, ids=_id)
def test_machines_by_their_identity(doors: Doors, rule: MethodRule) -> None:
    for account, roles in ACCOUNT_ROLES.items():
        code = _code(doors.channel("machines", account), rule)
        _check(code, allowed=bool(roles & rule.roles), who=account)


@pytest.mark.parametrize("rule", PUBLIC, ids=_id)
def test_the_service_decides_for_itself(doors: Doors, rule: MethodRule) -> None:
    """A caller that reaches a service past the gateway gains nothing."""
    service = _service(rule)
    dns = service.replace("_", "-")
    for account in ("viewer", "sdk", "agent", "fl-coordinator", "gateway"):
        code = _code(doors.channel(service, account, dns), rule)
        roles = ACCOUNT_ROLES.get(account, set())
        allowed = bool(roles & rule.roles) or account in rule.service_accounts
        _check(code, allowed=allowed, who=account)


def test_a_method_that_nobody_serves_is_unimplemented(
    doors: Doors,
) -> None:
    for rule in map(MethodRule, unserved_paths()):
        people, machine = doors.channel("people", None), doors.channel("machines", "sdk")

        assert _code(people, rule, doors.token("viewer")) is grpc.StatusCode.UNIMPLEMENTED, rule.path
        assert _code(machine, rule) is grpc.StatusCode.UNIMPLEMENTED, rule.path
        assert _code(people, rule) in REFUSALS, rule.path


@pytest.mark.parametrize("rule", INTERNAL, ids=_id)
def test_the_gateway_does_not_route_what_is_internal(doors: Doors, rule: MethodRule) -> None:
    for port, account in (("machines", "admin"), ("machines", "sdk")):
        code = _code(doors.channel(port, account), rule)

        assert code in {*REFUSALS, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND}


@pytest.mark.parametrize("rule", INTERNAL, ids=_id)
def test_internal_methods_take_their_own_account_only(doors: Doors, rule: MethodRule) -> None:
    service = _service(rule)
    for account in ("admin", "agent", "fl-coordinator", "gateway"):
        code = _code(doors.channel(service, account, service.replace("_", "-")), rule)
        _check(code, allowed=account in rule.service_accounts, who=account)


def _service(rule: MethodRule) -> str:
    return next(name for name, prefixes in SERVICES.items() if rule.service.startswith(prefixes))


@pytest.mark.parametrize("port", ["machines", "agent", "carbon", "fl_coordinator"])
def test_no_certificate_no_handshake(stack: Stack, port: str) -> None:
    service = "gateway" if port == "machines" else port.replace("_", "-")
    channel = stack.channel(port, None, service=service)
    rule = method_table()["/grpc.health.v1.Health/Check"]

    assert grpc.StatusCode.UNAVAILABLE == _code(channel, rule)
    channel.close()


@pytest.mark.parametrize(
    ("how", "status"),
    [("expired", 401), ("garbage", 401), ("two", 401), ("none", 401), ("wrong role", 403)],
)
def test_bad_credentials_over_http(stack: Stack, how: str, status: int) -> None:
    headers: list[tuple[str, str]] = []
    match how:
        case "expired":
            headers = [("authorization", f"Bearer {stack.token('operator', ttl='-2m')}")]
        case "garbage":
            headers = [("authorization", "Bearer abc.def.ghi")]
        case "two":
            headers = [("authorization", f"Bearer {stack.token('operator')}")] * 2
        case "wrong role":
            headers = [("authorization", f"Bearer {stack.token('viewer')}")]
    with stack.http() as http:
        answer = http.post("/v1/tools/echo:dispatch", headers=headers, json=_echo())

    assert status == answer.status_code, answer.text


def test_forged_headers_change_nothing(stack: Stack) -> None:
    forged = {
        "x-aegis-roles": "admin",
        "x-forwarded-client-cert": "URI=spiffe://aegis.local/ns/aegis/sa/admin",
        "aegis-on-behalf-of": '{"schema_version":1,"spiffe_id":"","subject":"x","tenant":"t","roles":[]}',
    }
    with stack.http() as http:
        answer = http.get("/v1/tools", headers=forged)

    assert 401 == answer.status_code, answer.text


def _echo() -> dict[str, Any]:
    return {"payload": [{"json": {"text": "hi"}}]}
