"""One RBAC policy for each public method, from the same table that the services obey."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aegis_common.auth.identities import Identity, parse
from aegis_common.files import read_file
from aegis_common.rpc.access import MethodRule
from aegis_gateway.tree import Tree

NODE_ROLE: Final = "node"
_JWT: Final = "envoy.filters.http.jwt_authn"


@dataclass(frozen=True, slots=True)
class Domain:
    """Names of the deployment that policies are made of."""

    trust_domain: str
    namespace: str
    roles_claim: str

    def spiffe_id(self, account: str) -> str:
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/sa/{account}"


def read_identities(file: Path) -> list[Identity]:
    """Return the entries of an identities file, sorted by SPIFFE id.

    Raises:
        ConfigurationError: It is missing or wrong; names the entry.
    """
    found = parse(read_file(file, "identities file"), str(file))
    return [found[spiffe_id] for spiffe_id in sorted(found)]


def machine_policies(rules: Iterable[MethodRule], machines: Sequence[Identity], domain: Domain) -> Tree:
    """Return the policies of the listener that requires a client certificate, by policy name."""
    peer = any_machine(domain)
    policies: Tree = {}
    for rule in _public(rules):
        if rule.public:
            policies[rule.path[1:]] = _policy(rule, [peer])
            continue
        principals = []
        if rule.roles:
            principals.append({"and_ids": {"ids": [peer, _any_of(_token_roles(rule, domain))]}})
        if ids := list(_certificates(rule, machines, domain)):
            # With a token, its roles count alone: a certificate cannot add to them.
            principals.append({"and_ids": {"ids": [{"not_id": any_person()}, _any_of(ids)]}})
        if principals:
            policies[rule.path[1:]] = _policy(rule, principals)
    return policies


def people_policies(rules: Iterable[MethodRule], domain: Domain) -> Tree:
    """Return the policies of the listener without client certificates, by policy name."""
    policies: Tree = {}
    for rule in _public(rules):
        principals = [{"any": True}] if rule.public else list(_token_roles(rule, domain))
        if principals:
            policies[rule.path[1:]] = _policy(rule, principals)
    return policies


def any_machine(domain: Domain) -> Tree:
    """Return the principal of whoever has a certificate of the trust domain."""
    return {"authenticated": {"principal_name": {"prefix": f"spiffe://{domain.trust_domain}/"}}}


def fleet_principals(machines: Iterable[Identity]) -> list[Tree]:
    """Return the principals that may speak to SuperLink: machines with the role `node`."""
    return [_certificate(machine.spiffe_id) for machine in machines if NODE_ROLE in machine.roles]


def unserved_policy(paths: Iterable[str], caller: Tree) -> Tree:
    """Return the policy that lets every *caller* hear from the service that it has no such methods."""
    exact = [{"url_path": {"path": {"exact": path}}} for path in paths]
    return {"permissions": exact, "principals": [caller]}


def any_person() -> Tree:
    """Return the principal of whoever has a valid token."""
    return _token(["iss"], {"present_match": True})


def _public(rules: Iterable[MethodRule]) -> list[MethodRule]:
    return [rule for rule in sorted(rules, key=lambda rule: rule.path) if not rule.mesh_internal]


def _policy(rule: MethodRule, principals: list[Tree]) -> Tree:
    return {"permissions": [{"url_path": {"path": {"exact": rule.path}}}], "principals": principals}


def _token_roles(rule: MethodRule, domain: Domain) -> Iterator[Tree]:
    for role in sorted(rule.roles):
        yield _token(
            domain.roles_claim.split("."), {"list_match": {"one_of": {"string_match": {"exact": role}}}}
        )


def _token(claim: Sequence[str], value: Tree) -> Tree:
    path = [{"key": key} for key in ("jwt_payload", *claim)]
    return {"sourced_metadata": {"metadata_matcher": {"filter": _JWT, "path": path, "value": value}}}


def _certificates(rule: MethodRule, machines: Iterable[Identity], domain: Domain) -> Iterator[Tree]:
    accounts = {domain.spiffe_id(account) for account in rule.service_accounts}
    for machine in machines:
        if machine.via_gateway and (machine.roles & rule.roles or machine.spiffe_id in accounts):
            yield _certificate(machine.spiffe_id)


def _certificate(spiffe_id: str) -> Tree:
    return {"authenticated": {"principal_name": {"exact": spiffe_id}}}


def _any_of(principals: Iterable[Tree]) -> Tree:
    return {"or_ids": {"ids": list(principals)}}
