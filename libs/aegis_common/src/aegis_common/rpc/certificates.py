"""Metrics of a server's certificate files: when they end, and how often a change was refused."""

from __future__ import annotations

from collections.abc import Iterable

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
