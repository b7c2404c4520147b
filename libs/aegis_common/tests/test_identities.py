"""Who calls: the identities file, and every combination of certificate, gateway, token and stored user."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from aegis_common.auth.errors import (
    AmbiguousIdentity,
    OnBehalfOfNotAllowed,
    PeerNotNamed,
    TokenInvalid,
    TokensNotAccepted,
)
from aegis_common.auth.identify import Identifier, identify
from aegis_common.auth.identities import MESH_ACCOUNTS, USER_ROLES, Identities, Identity, parse
from aegis_common.auth.keys import KeySource
from aegis_common.auth.principal import ANONYMOUS, Principal
from aegis_common.auth.tokens import TokenVerifier
from aegis_common.errors import ConfigurationError, Unauthenticated
from aegis_common.files import write_atomic
from aegis_common.rpc.access import method_table
from aegis_common.settings import ServiceSettings
from aegis_common.testing.pki import AUDIENCE, CLIENTS, ISSUER, Mesh
from aegis_common.testing.waiting import until

SDK = "spiffe://aegis.local/ns/aegis/sa/sdk"
GATEWAY = "spiffe://aegis.local/ns/aegis/sa/gateway"
COORDINATOR = "spiffe://aegis.local/ns/aegis/sa/fl-coordinator"
CARBON = "spiffe://aegis.local/ns/aegis/sa/carbon"
STORED = Principal("", "bob", "acme", frozenset({"trainer"}))
Pairs = Sequence[tuple[str, str | bytes]]


def file_of(entries: object, version: object = 1) -> bytes:
    return json.dumps({"schema_version": version, "identities": entries}).encode()


def entry(**changes: object) -> dict[str, object]:
    fields = {"tenant": "acme", "roles": ["viewer"], "via_gateway": True} | changes
    return {name: value for name, value in fields.items() if value is not None}


# The file


def test_an_entry_is_read_whole() -> None:
    assert parse(file_of({SDK: entry()}), "f") == {SDK: Identity(SDK, "acme", frozenset({"viewer"}), True)}


def test_roles_and_via_gateway_may_be_left_out() -> None:
    found = parse(file_of({SDK: entry(roles=None, via_gateway=None)}), "f")

    assert found == {SDK: Identity(SDK, "acme", frozenset(), False)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "valid JSON"),
        (b"[" * 100_000, "valid JSON"),
        (b"[]", "must be an object"),
        (b"{}", "schema_version None"),
        (file_of({}, version=2), "schema_version 2"),
        (file_of({}, version="1"), "schema_version '1'"),
        (b'{"schema_version": 1, "identities": {}, "extra": 1}', "nothing else"),
        (file_of([]), "must be an object"),
        (file_of({"sdk": entry()}), "sdk is not spiffe://"),
        (file_of({SDK + "/": entry()}), "is not spiffe://"),
        (file_of({SDK: []}), "must be an object"),
        (file_of({SDK: entry(rolls=["viewer"])}), "unknown field rolls"),
        (file_of({SDK: entry(roles=["viewer", "root"])}), "unknown role root; known: admin, node, operator"),
        (file_of({SDK: entry(roles="viewer")}), "list of names"),
        (file_of({SDK: entry(roles=[1])}), "list of names"),
        (file_of({SDK: entry(tenant="A/B")}), "tenant 'A/B'"),
        (file_of({SDK: entry(tenant=None)}), "tenant None"),
        (file_of({SDK: entry(via_gateway="yes")}), "true or false"),
        (file_of({CARBON: entry()}), "never comes via_gateway"),
        (b'{"schema_version": 1, "identities": {}, "identities": {}}', "twice"),
    ],
)
def test_a_wrong_file_is_refused_by_what_is_wrong(content: bytes, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(content, "identities.json")

    assert message in caught.value.message
    assert "identities.json" in caught.value.message


def test_a_missing_file_is_refused_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.json"):
        Identities(tmp_path / "absent.json")


async def test_a_changed_file_counts_and_a_wrong_one_leaves_the_old(tmp_path: Path) -> None:
    path = tmp_path / "identities.json"
    path.write_bytes(file_of({SDK: entry()}))
    async with Identities(path, interval=timedelta(milliseconds=20)) as identities:
        write_atomic(path, file_of({SDK: entry(roles=["admin"])}))
        await until(lambda: "admin" in roles_of(identities))
        write_atomic(path, file_of({SDK: entry(roles=["root"])}))
        await until(lambda: identities.failed_reloads == 1)
        path.unlink()
        await until(lambda: identities.failed_reloads == 2)
        assert roles_of(identities) == {"admin"}
        write_atomic(path, file_of({}))
        await until(lambda: identities.lookup(SDK) is None)

    assert identities.failed_reloads == 2


def roles_of(identities: Identities) -> frozenset[str]:
    found = identities.lookup(SDK)
    assert found is not None
    return found.roles


def test_the_names_here_are_those_of_the_method_table() -> None:
    rules = method_table().values()
    accounts = set[str]().union(*(rule.service_accounts | rule.on_behalf_of for rule in rules))

    assert set[str]().union(*(rule.roles for rule in rules)) == USER_ROLES | {"worker"}
    assert accounts - set(CLIENTS) <= MESH_ACCOUNTS


# Who calls


@pytest.fixture
async def verifier(mesh: Mesh) -> AsyncIterator[TokenVerifier]:
    async with TokenVerifier(ISSUER, AUDIENCE, KeySource(str(mesh.jwks))) as verifier:
        yield verifier


@pytest.fixture
def who(mesh: Mesh, verifier: TokenVerifier) -> Who:
    return Who(mesh, verifier)


class Who:
    """Calls `identify` as carbon would."""

    def __init__(self, mesh: Mesh, verifier: TokenVerifier) -> None:
        mesh.write_identities(
            {
                "spiffe://aegis.local/ns/aegis/sa/direct": entry(via_gateway=False),
                "spiffe://aegis.local/ns/other/sa/sdk": entry(),
                "spiffe://aegis.local/ns/aegis/sa/fl-node-site-1": entry(roles=["node"]),
            }
        )
        self.identities = Identities(mesh.identities)
        self.verifier = verifier

    async def __call__(
        self, peer: str, metadata: Pairs | dict[str, str] = (), *, acting: Sequence[str] = ()
    ) -> Principal:
        return await identify(
            peer,
            metadata,
            rule_on_behalf_of=frozenset(acting),
            trust_domain="aegis.local",
            namespace="aegis",
            identities=self.identities,
            verifier=self.verifier,
        )


def xfcc(uri: str) -> tuple[str, str]:
    text = f'By={CARBON};Hash=ab12;Subject="CN=sdk,O=a\\"b;URI=spiffe://evil";URI={uri}'
    return "x-forwarded-client-cert", text


async def test_a_certificate_alone_gets_tenant_and_roles_from_the_file(who: Who) -> None:
    assert await who(SDK) == Principal(SDK, "sdk", "default", frozenset({"operator", "trainer"}))


async def test_a_mesh_service_without_an_entry_gets_no_roles(who: Who) -> None:
    assert await who(CARBON) == Principal(CARBON, "carbon", "default", frozenset())


async def test_a_token_overrides_roles_and_tenant_of_the_certificate(who: Who, mesh: Mesh) -> None:
    token = mesh.token("alice", ["viewer"], "acme")

    assert await who(SDK, [("authorization", f"Bearer {token}")]) == Principal(
        SDK, "alice", "acme", frozenset({"viewer"}), token=token
    )


async def test_metadata_may_be_a_mapping(who: Who, mesh: Mesh) -> None:
    found = await who(GATEWAY, {"Authorization": f"bearer {mesh.token('alice')}"})

    assert found.subject == "alice"


async def test_a_person_through_the_gateway_has_no_certificate(who: Who, mesh: Mesh) -> None:
    token = mesh.token("alice")

    assert await who(GATEWAY, [("authorization", f"Bearer {token}")]) == Principal(
        "", "alice", "default", frozenset({"operator"}), token=token
    )


async def test_a_machine_through_the_gateway_is_the_one_that_the_gateway_saw(who: Who, mesh: Mesh) -> None:
    assert await who(GATEWAY, [xfcc(SDK)]) == Principal(
        SDK, "sdk", "default", frozenset({"operator", "trainer"})
    )
    token = mesh.token("alice", ["viewer"])
    both = await who(GATEWAY, [xfcc(SDK), ("authorization", f"Bearer {token}")])
    assert both == Principal(SDK, "alice", "default", frozenset({"viewer"}), token=token)


async def test_nothing_but_the_gateway_makes_an_anonymous_caller(who: Who) -> None:
    assert await who(GATEWAY) == ANONYMOUS
    assert await who("") == ANONYMOUS


@pytest.mark.parametrize(
    "uri",
    [
        COORDINATOR,
        CARBON,
        GATEWAY,
        "spiffe://aegis.local/ns/aegis/sa/direct",
        "spiffe://aegis.local/ns/aegis/sa/unknown",
        "spiffe://aegis.local/ns/other/sa/sdk",
        "spiffe://evil.test/ns/aegis/sa/sdk",
        f"{SDK};URI={SDK}",
        "",
        '"',
    ],
)
async def test_the_gateway_vouches_only_for_entries_that_say_so(who: Who, uri: str) -> None:
    assert await who(GATEWAY, [xfcc(uri)]) == ANONYMOUS


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (f"URI={SDK}", "sdk"),
        (f'URI="{SDK}"', "sdk"),
        (f"uri={SDK}", "sdk"),
        (f"URI=spiffe://aegis.local/ns/aegis/sa/admin,By=x;URI={SDK}", "sdk"),
        (f"URI={SDK},By=x;Hash=1", ""),
        (f'URI={SDK},By=x;Subject="CN=,URI={SDK}"', ""),
        (f'Subject="a\\",URI={SDK}', ""),
        (f"URI={SDK},", ""),
        (f"xURI={SDK}", ""),
        ("", ""),
    ],
)
async def test_only_the_last_element_of_the_forwarded_certificate_counts(
    who: Who, header: str, expected: str
) -> None:
    assert (await who(GATEWAY, [("x-forwarded-client-cert", header)])).subject == expected


async def test_spoofed_headers_count_for_nothing(who: Who) -> None:
    spoofed: Pairs = [
        xfcc("spiffe://aegis.local/ns/aegis/sa/admin"),
        ("x-aegis-sub", "root"),
        ("x-aegis-roles", "admin"),
        ("x-aegis-tenant", "acme"),
        ("x-forwarded-user", "root"),
    ]

    assert await who(CARBON, spoofed) == Principal(CARBON, "carbon", "default", frozenset())
    assert await who(GATEWAY, spoofed[1:]) == ANONYMOUS


@pytest.mark.parametrize("key", ["authorization", "aegis-on-behalf-of", "x-forwarded-client-cert"])
async def test_a_caller_that_is_named_twice_is_refused(who: Who, mesh: Mesh, key: str) -> None:
    value = {"authorization": f"Bearer {mesh.token()}", "aegis-on-behalf-of": STORED.to_record()}
    pair = (key, value.get(key, f"URI={SDK}"))

    with pytest.raises(AmbiguousIdentity, match=key):
        await who(GATEWAY, [pair, (key.title(), pair[1])])


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic YTpi", "Bearer a b", "abc"])
async def test_an_authorization_header_that_is_no_bearer_token_is_refused(who: Who, header: str) -> None:
    with pytest.raises(TokenInvalid, match="Bearer"):
        await who(SDK, [("authorization", header)])


async def test_a_bad_token_is_refused_even_with_a_good_certificate(who: Who) -> None:
    with pytest.raises(TokenInvalid):
        await who(SDK, [("authorization", "Bearer abc")])


@pytest.mark.parametrize(
    "peer",
    [
        "spiffe://evil.test/ns/aegis/sa/gateway",
        "spiffe://aegis.local/ns/other/sa/sdk",
        "spiffe://aegis.local/ns/other/sa/fl-coordinator",
        "spiffe://aegis.local/sdk",
    ],
)
async def test_a_peer_of_another_mesh_is_refused(who: Who, peer: str) -> None:
    with pytest.raises(PeerNotNamed):
        await who(peer)


@pytest.mark.parametrize("key", ["authorization", "aegis-on-behalf-of"])
async def test_a_peer_without_a_name_cannot_bring_a_user(who: Who, mesh: Mesh, key: str) -> None:
    value = f"Bearer {mesh.token()}" if key == "authorization" else STORED.to_record()

    with pytest.raises(PeerNotNamed):
        await who("", [(key, value)], acting=["fl-coordinator"])


async def test_a_named_account_acts_for_a_stored_user(who: Who) -> None:
    found = await who(
        COORDINATOR, [("aegis-on-behalf-of", STORED.to_record())], acting=["agent", "fl-coordinator"]
    )

    assert found == Principal(COORDINATOR, "bob", "acme", frozenset({"trainer"}), on_behalf_of=True)


@pytest.mark.parametrize(
    ("peer", "acting"),
    [
        (COORDINATOR, []),
        (COORDINATOR, ["agent"]),
        (SDK, ["fl-coordinator"]),
        (CARBON, ["fl-coordinator"]),
        (GATEWAY, ["fl-coordinator"]),
        (GATEWAY, ["gateway"]),
    ],
)
async def test_nobody_else_acts_for_a_stored_user(who: Who, peer: str, acting: list[str]) -> None:
    headers: Pairs = [("aegis-on-behalf-of", STORED.to_record()), xfcc(COORDINATOR)]

    with pytest.raises(OnBehalfOfNotAllowed) as caught:
        await who(peer, headers, acting=acting)

    assert caught.value.reason == "ON_BEHALF_OF_NOT_ALLOWED"


async def test_a_token_and_a_stored_user_together_are_refused(who: Who, mesh: Mesh) -> None:
    headers: Pairs = [
        ("authorization", f"Bearer {mesh.token()}"),
        ("aegis-on-behalf-of", STORED.to_record()),
    ]

    with pytest.raises(AmbiguousIdentity, match="not both"):
        await who(COORDINATOR, headers, acting=["fl-coordinator"])


@pytest.mark.parametrize(
    "record",
    [
        "",
        "{",
        "[]",
        "x" * 5000,
        "[" * 4000,
        json.dumps(json.loads(STORED.to_record()) | {"schema_version": 2}),
        json.dumps(json.loads(STORED.to_record()) | {"tenant": "../x"}),
        json.dumps(json.loads(STORED.to_record()) | {"roles": "admin"}),
    ],
)
async def test_a_broken_stored_user_is_refused(who: Who, record: str) -> None:
    with pytest.raises(Unauthenticated):
        await who(COORDINATOR, [("aegis-on-behalf-of", record)], acting=["fl-coordinator"])


async def test_the_token_of_a_site_gives_no_node_role(who: Who, mesh: Mesh) -> None:
    token = mesh.token("alice", ["node", "viewer", "uma_authorization"])
    found = await who(SDK, [("authorization", f"Bearer {token}")])

    assert found.roles == {"viewer"}


async def test_an_identifier_follows_the_settings(mesh: Mesh) -> None:
    settings = ServiceSettings(**mesh.service_kwargs("carbon"))
    async with Identifier.open(settings) as identifier:
        token = ("authorization", f"Bearer {mesh.token('alice')}")
        found = await identifier.identify(GATEWAY, [token], on_behalf_of=frozenset())

    assert found.subject == "alice"


async def test_without_an_issuer_certificates_work_and_tokens_do_not(mesh: Mesh) -> None:
    kwargs = mesh.service_kwargs("carbon")
    del kwargs["token"]
    async with Identifier.open(ServiceSettings(**kwargs)) as identifier:
        assert (await identifier.identify(SDK, [], on_behalf_of=frozenset())).subject == "sdk"
        with pytest.raises(TokensNotAccepted):
            token = ("authorization", f"Bearer {mesh.token('alice')}")
            await identifier.identify(SDK, [token], on_behalf_of=frozenset())
