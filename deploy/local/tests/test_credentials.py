"""Certificates, identities and keys of a stack."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aegis_agent.adapters.remote.policy import WorkerPolicy
from aegis_common.auth.identities import parse
from aegis_common.pki import read_not_after, spiffe_id_of
from aegis_common.signing import Signer, TrustedKeys
from aegis_local.credentials import CLIENTS, SERVICES, SUPERLINK, Credentials, site, spiffe_id
from aegis_local.state import StateDir

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


class Now:
    def __init__(self) -> None:
        self.value = NOW

    def __call__(self) -> datetime:
        return self.value


def made(folder: Path, now: Now) -> Credentials:
    credentials = Credentials(StateDir.at(folder), nodes=3, clock=now)
    credentials.create()
    return credentials


def test_every_account_has_a_certificate_with_its_own_spiffe_id(tmp_path: Path) -> None:
    credentials = made(tmp_path, Now())

    for account in [*SERVICES, *CLIENTS, "fl-serverapp", SUPERLINK, site(1), site(3)]:
        assert spiffe_id_of(credentials.pair(account).cert.read_bytes()) == spiffe_id(account)


def test_services_accept_the_identities_file(tmp_path: Path) -> None:
    made(tmp_path, Now())
    content = StateDir.at(tmp_path).identities.read_bytes()

    entries = parse(content, "identities")

    assert entries[spiffe_id("sdk")].roles == {"operator", "trainer"}
    assert entries[spiffe_id(site(2))].roles == {"node"}
    assert entries[spiffe_id("tool-worker")].roles == {"worker"}
    assert json.loads(content)["schema_version"] == 1


async def test_the_agent_lets_the_tool_worker_bring_tools_and_a_changed_policy_stays(tmp_path: Path) -> None:
    made(tmp_path, Now())
    path = StateDir.at(tmp_path).worker_policy

    grant = await WorkerPolicy(path).grant(spiffe_id("tool-worker"))
    assert (grant.owner, grant.allows("anything")) == ("default", True)

    path.write_text('{"schema_version": 1, "workers": {}}')
    made(tmp_path, Now())
    assert path.read_text() == '{"schema_version": 1, "workers": {}}'


def test_certificates_are_issued_again_in_the_last_third_of_their_life(tmp_path: Path) -> None:
    now = Now()
    credentials = made(tmp_path, now)
    assert credentials.renew() == []

    now.value = NOW + timedelta(hours=17)
    renewed = credentials.renew()

    assert {"gateway", "sdk", site(1)} <= set(renewed)
    assert SUPERLINK not in renewed
    assert read_not_after(credentials.pair("gateway").cert.read_bytes()) > NOW + timedelta(hours=40)


def test_a_restart_keeps_certificates_and_keys(tmp_path: Path) -> None:
    first = made(tmp_path, Now())
    before = first.pair("sdk").cert.read_bytes(), first.signing_key("audit").read_bytes()

    second = made(tmp_path, Now())

    assert (second.pair("sdk").cert.read_bytes(), second.signing_key("audit").read_bytes()) == before


def test_agents_have_a_key_for_their_records_that_a_restart_keeps(tmp_path: Path) -> None:
    key = made(tmp_path, Now()).signing_key("records")
    first = Signer.load(key).key_id

    assert Signer.load(made(tmp_path, Now()).signing_key("records")).key_id == first
    assert key.stat().st_mode & 0o777 == 0o600


def test_signing_keys_are_trusted(tmp_path: Path) -> None:
    credentials = made(tmp_path, Now())

    for name in ("audit", "model-signing"):
        signer = Signer.load(credentials.signing_key(name))
        assert TrustedKeys.load(credentials.trusted_keys(name)).verify(signer.key_id, signer.sign(b"x"), b"x")
