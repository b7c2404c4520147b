"""Fixtures that several test files share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aegis_common.audit.log import AuditLog
from aegis_common.auth.keys import KeySource
from aegis_common.auth.tokens import TokenVerifier
from aegis_common.signing import Signer
from aegis_common.testing.audit import NOW
from aegis_common.testing.clock import MovedClock
from aegis_common.testing.pki import AUDIENCE, ISSUER, Mesh


@pytest.fixture
def signer() -> Signer:
    return Signer(Ed25519PrivateKey.generate())


@pytest.fixture
def open_log(tmp_path: Path, signer: Signer) -> Callable[..., AuditLog]:
    """Returns logs of one instance under `log`, whose checkpoints are shipped to `shipped`."""

    def log(**options: object) -> AuditLog:
        settings = {"service": "carbon", "instance": "pod-0", "key": signer, "ship_dir": tmp_path / "shipped"}
        return AuditLog(tmp_path / "log", **(settings | {"clock": lambda: NOW} | options))  # type: ignore[arg-type]

    return log


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


@pytest.fixture
def time() -> MovedClock:
    return MovedClock()


@pytest.fixture
async def verifier(mesh: Mesh, time: MovedClock) -> AsyncIterator[TokenVerifier]:
    """Believes the mesh's issuer, and looks at its keys again only when it has to."""
    keys = KeySource(str(mesh.jwks), refresh=timedelta(hours=1), monotonic=time.monotonic)
    async with TokenVerifier(ISSUER, AUDIENCE, keys, clock=time.utc) as verifier:
        yield verifier
