"""What can go wrong before Envoy runs."""

from __future__ import annotations

from collections.abc import Sequence

from aegis_common.errors import AegisError, ErrorKind


class GatewayConfigInvalid(AegisError):
    """The configuration cannot work, or does not serve what the descriptor set promises."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "GATEWAY_CONFIG_INVALID"

    def __init__(self, what: str, faults: Sequence[str]) -> None:
        super().__init__("\n  ".join([f"{what}:", *faults]), faults="; ".join(faults))
        self.faults = tuple(faults)


class AddressTaken(AegisError):
    kind = ErrorKind.FAILED_PRECONDITION
    reason = "ADDRESS_TAKEN"
