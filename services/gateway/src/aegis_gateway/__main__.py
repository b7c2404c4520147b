"""`python -m aegis_gateway`: the same as the script `aegis-gateway`."""

from __future__ import annotations

from aegis_gateway.cli import main

main()
