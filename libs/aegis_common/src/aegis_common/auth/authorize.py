"""May this caller call this method? One rule, from the descriptor set; deny by default."""

from __future__ import annotations

from aegis_common.auth.principal import Principal, service_account
from aegis_common.errors import PermissionDenied, Unauthenticated
from aegis_common.rpc.access import MethodRule


class NoCredentials(Unauthenticated):
    reason = "NO_CREDENTIALS"


class RoleMissing(PermissionDenied):
    reason = "ROLE_MISSING"


def authorize(rule: MethodRule, principal: Principal, *, peer_spiffe_id: str) -> None:
    """Return when *rule* admits the caller.

    Args:
        rule: The method's rule.
        principal: Who calls.
        peer_spiffe_id: SPIFFE id of this hop's client certificate; the service account clause looks at it
            alone, so that nothing a proxy says can make somebody a service account.

    Raises:
        NoCredentials: Nobody was named, and the method is not public.
        RoleMissing: The caller is known but has none of the roles, and its certificate is of none of the
            service accounts.
    """
    if rule.public or rule.roles & principal.roles:
        return
    if service_account(peer_spiffe_id) in rule.service_accounts:
        return
    if not principal.subject:
        raise NoCredentials(
            f"{rule.path} needs a bearer token or a known client certificate", method=rule.path
        )
    needed = ", ".join(sorted(rule.roles)) or "none that a person can have"
    raise RoleMissing(
        f"{principal.subject!r} may not call {rule.path}; roles that may: {needed}",
        method=rule.path,
        subject=principal.subject,
        required_roles=needed,
    )
