"""The method table is complete, and the one decision made from it denies by default."""

from __future__ import annotations

import pytest

from aegis_common.auth.authorize import NoCredentials, RoleMissing, authorize
from aegis_common.auth.principal import ANONYMOUS, Principal
from aegis_common.errors import Unauthenticated
from aegis_common.rpc.access import MethodRule, method_table
from aegis_common.rpc.reflection import public_services

SPIFFE = "spiffe://aegis.local/ns/aegis/sa/"
OPERATOR = Principal("", "alice", "default", frozenset({"operator"}))


def test_every_method_lets_somebody_in_and_has_a_sane_deadline() -> None:
    for rule in method_table().values():
        assert rule.roles or rule.service_accounts or rule.public, rule.path
        assert 0 < rule.default_timeout_s <= rule.max_timeout_s, rule.path


def test_only_accounts_that_a_method_admits_may_act_for_users() -> None:
    for rule in method_table().values():
        assert rule.on_behalf_of <= rule.service_accounts, rule.path


def test_mesh_internal_services_are_not_public() -> None:
    assert "aegis.fl.v1.RoundService" not in public_services()
    assert "aegis.agent.v1.AgentService" in public_services()


def test_a_role_of_the_method_admits() -> None:
    authorize(MethodRule("/a.B/C", roles=frozenset({"operator"})), OPERATOR, peer_spiffe_id="")


def test_a_method_without_a_rule_admits_nobody() -> None:
    with pytest.raises(RoleMissing):
        authorize(MethodRule("/a.B/C"), OPERATOR, peer_spiffe_id=SPIFFE + "gateway")


def test_an_unnamed_caller_is_asked_to_say_who_it_is() -> None:
    with pytest.raises(NoCredentials):
        authorize(MethodRule("/a.B/C", roles=frozenset({"viewer"})), ANONYMOUS, peer_spiffe_id="")


def test_a_service_account_is_admitted_by_its_own_certificate_only() -> None:
    rule = MethodRule("/a.B/C", service_accounts=frozenset({"fl-coordinator"}))
    authorize(rule, ANONYMOUS, peer_spiffe_id=SPIFFE + "fl-coordinator")
    claimed = Principal(SPIFFE + "fl-coordinator", "fl-coordinator", "default", frozenset())

    with pytest.raises(RoleMissing):
        authorize(rule, claimed, peer_spiffe_id=SPIFFE + "gateway")


def test_a_stored_principal_comes_back_without_its_token() -> None:
    stored = Principal("", "alice", "acme", frozenset({"trainer"}), token="secret").to_record()
    loaded = Principal.from_record(stored)

    assert "secret" not in stored
    assert ("alice", "acme", frozenset({"trainer"}), True) == (
        loaded.subject,
        loaded.tenant,
        loaded.roles,
        loaded.on_behalf_of,
    )


@pytest.mark.parametrize(
    "record", ["", "[]", "{}", '{"schema_version":2}', '{"schema_version":1,"roles":"admin"}']
)
def test_a_broken_or_newer_principal_record_is_refused(record: str) -> None:
    with pytest.raises(Unauthenticated):
        Principal.from_record(record)
