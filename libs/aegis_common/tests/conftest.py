"""Fixtures that several test files share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aegis_common.audit.log import AuditLog
from aegis_common.signing import Signer
from aegis_common.testing.audit import NOW


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
