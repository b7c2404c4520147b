"""Check rendered files: by Envoy itself, then for what Envoy does not look at."""

from __future__ import annotations

from pathlib import Path

from aegis_common.rpc.access import method_table
from aegis_gateway import envoy, proofs
from aegis_gateway.errors import GatewayConfigInvalid
from aegis_gateway.flatten import flatten


def validate(out_dir: Path) -> None:
    """Return when the configuration under *out_dir* loads, and serves the descriptor set, no more.

    Raises:
        GatewayConfigInvalid: It does not; `faults` says why.
    """
    static = flatten(out_dir)
    envoy.check(static)
    if found := proofs.faults(static, method_table()):
        raise GatewayConfigInvalid("the configuration does not serve the descriptor set", found)
