"""What every server reports of itself: the state of its certificate files and of its audit log."""

from __future__ import annotations

from collections.abc import Iterable

from aegis_common.audit.log import AuditLog
from aegis_common.auth.identify import Identifier
from aegis_common.telemetry import Attributes, Telemetry
from aegis_common.tls import IdentityFiles


def observe_certificates(telemetry: Telemetry, files: IdentityFiles) -> None:
    """Report `aegis.tls.not_after` (s since 1970), `aegis.tls.reloads` and `aegis.tls.failed_reloads`."""

    def ends() -> Iterable[tuple[float, Attributes]]:
        return [(end.timestamp(), {"file": path}) for path, end in files.stats().not_after.items()]

    telemetry.observe("aegis.tls.not_after", "s", "When the certificate in use ends, in Unix time.", ends)
    telemetry.observe(
        "aegis.tls.reloads", "1", "Changed certificate files taken into use.", lambda: files.stats().reloads
    )
    telemetry.observe(
        "aegis.tls.failed_reloads",
        "1",
        "Changed files refused.",
        lambda: files.stats().failed_reloads,
    )


def observe_identifier(telemetry: Telemetry, identifier: Identifier) -> None:
    """Report `aegis.auth.failed_identity_reloads`, `.failed_key_refreshes` and `.key_age` (s)."""
    telemetry.observe(
        "aegis.auth.failed_identity_reloads",
        "1",
        "Changed identities files refused.",
        lambda: identifier.identities.failed_reloads,
    )
    keys = identifier.verifier.keys
    if keys is None:
        return

    def age() -> Iterable[tuple[float, Attributes]]:
        seconds = keys.stats().age_s
        return [] if seconds is None else [(seconds, {})]

    telemetry.observe(
        "aegis.auth.failed_key_refreshes",
        "1",
        "Failed reads of the issuer's keys.",
        lambda: keys.stats().failed_refreshes,
    )
    telemetry.observe("aegis.auth.key_age", "s", "Time since the issuer's keys were read.", age)


def observe_audit(telemetry: Telemetry, audit: AuditLog) -> None:
    """Report `aegis.audit.failed_writes` and `aegis.audit.failed_shipments`."""
    telemetry.observe(
        "aegis.audit.failed_writes",
        "1",
        "Attempts to write audit records that failed.",
        lambda: audit.failures,
    )
    telemetry.observe(
        "aegis.audit.failed_shipments",
        "1",
        "Checkpoints that did not reach the second place at once.",
        lambda: audit.ship_failures,
    )
