"""How Flower's processes are started: commands and environments for whoever supervises them."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from aegis_fl_coordinator.envoy import Identity, envoy_command, write_edge_config, write_site_config

__all__ = [
    "SERVERAPP_DIR_VARIABLE",
    "SERVERAPP_READ_VARIABLE",
    "SITE_HOME_VARIABLE",
    "SITE_POLICY_VARIABLE",
    "TASK_PROGRAMS",
    "Identity",
    "app_environment",
    "envoy_command",
    "node_key",
    "superlink_command",
    "superlink_environment",
    "supernode_command",
    "supernode_environment",
    "write_edge_config",
    "write_site_config",
]

SERVERAPP_DIR_VARIABLE: Final = "AEGIS_FL_SERVERAPP_DIR"
"""Names the folder where a ServerApp finds the file of its run."""
SITE_POLICY_VARIABLE: Final = "AEGIS_FL_SITE_POLICY"
"""Names a site's policy, for its ClientApp processes."""
SITE_HOME_VARIABLE: Final = "AEGIS_FL_SITE_HOME"
"""Names the folder where they keep what the node has spent."""
SERVERAPP_READ_VARIABLE: Final = "AEGIS_FL_SERVERAPP_READ"
"""Names what else a ServerApp may read, as PATH does."""
_SERVERAPP: Final = "aegis_fl_coordinator.serverapp.confined"
_SITE_APP: Final = "aegis_fl_coordinator.site.clientapp"
TASK_PROGRAMS: Final = (
    "flwr-agentapp",
    "flwr-clientapp",
    "flwr-connector",
    "flwr-model",
    "flwr-serverapp",
    "flwr-simulation",
)
"""All that Flower's helper starts for tasks, by name."""
_TASK_POLL: Final = "0.1"


def superlink_command(*, port: int, database: Path, cert: Path, key: Path, ca: Path) -> list[str]:
    """Return the command of SuperLink: loopback, TLS, node authentication, SQLite, installs nothing.

    Args:
        port: Port on 127.0.0.1; Control, Runtime and Fleet share it.
        database: SQLite file on the coordinator's volume; its folder exists.
        cert: Server certificate, PEM, with the SAN 127.0.0.1.
        key: Its key.
        ca: CA of *cert*, for Flower's own child processes.
    """
    return [
        _binary("flower-superlink"),
        *("--host", "127.0.0.1", "--port", str(port), "--database", str(database)),
        *("--ssl-certfile", str(cert), "--ssl-keyfile", str(key), "--ssl-ca-certfile", str(ca)),
        *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
    ]


def supernode_command(
    *, superlink_port: int, runtime_port: int, ca: Path, private_key: Path, partition: int, partitions: int
) -> list[str]:
    """Return the command of a SuperNode behind its local Envoy.

    Args:
        superlink_port: Port of the local Envoy on 127.0.0.1 (TLS).
        runtime_port: Free port on 127.0.0.1 for the node's own app processes.
        ca: CA of the local Envoy's certificate.
        private_key: The node's key: EC P-384, OpenSSH private key file.
        partition: Which shard of the data the node has. Range: 0 to *partitions* - 1.
        partitions: Number of shards.
    """
    return [
        _binary("flower-supernode"),
        *("--superlink", f"127.0.0.1:{superlink_port}", "--root-certificates", str(ca)),
        *("--host", "127.0.0.1", "--port", str(runtime_port)),
        *("--auth-supernode-private-key", str(private_key)),
        *("--node-config", f"partition-id={partition} num-partitions={partitions}"),
    ]


def node_key(path: Path) -> str:
    """Make a SuperNode's private key at *path*, or keep the one there, and return the public key, PEM.

    The key is EC P-384 as an OpenSSH private key file, mode 0600; the public key is what RegisterNode takes.
    """
    if not path.exists():
        key = ec.generate_private_key(ec.SECP384R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        path.write_bytes(pem)
    public = serialization.load_ssh_private_key(path.read_bytes(), None).public_key()
    return public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()


def superlink_environment(
    *, home: Path, serverapp_dir: Path, readable: Sequence[Path] = ()
) -> dict[str, str]:
    """Return SuperLink's whole environment; it goes on to the ServerApps, so it holds no secret.

    Args:
        home: Private folder for Flower's files; made if absent.
        serverapp_dir: The coordinator's `serverapp_dir`.
        readable: Further files and folders that training apps may read on this machine, such as test data.
    """
    environment = app_environment(home=home, serverapp_dir=serverapp_dir)
    return {
        **environment,
        "PATH": _path(home, "flwr-serverapp", _SERVERAPP),
        SERVERAPP_READ_VARIABLE: os.pathsep.join(str(path.resolve()) for path in readable),
    }


def supernode_environment(*, home: Path, policy: Path | None = None) -> dict[str, str]:
    """Return a SuperNode's whole environment.

    Args:
        home: Private folder for Flower's files and the site's own; made if absent.
        policy: The site's `site-policy.yaml`; None for a site that runs whatever the coordinator's admin
            approved.

    Raises:
        InvalidSitePolicy: The policy cannot be read, or is none.
    """
    environment = _environment(home)
    if policy is None:
        return {**environment, "PATH": _path(home, "flwr-clientapp")}
    # Late: what starts SuperLink reads no policy.
    from aegis_fl_coordinator.site.policy_file import read_policy  # noqa: PLC0415

    read_policy(policy)
    return {
        **environment,
        "PATH": _path(home, "flwr-clientapp", _SITE_APP),
        SITE_POLICY_VARIABLE: str(policy.resolve()),
        SITE_HOME_VARIABLE: str(home.resolve()),
    }


def app_environment(*, home: Path, serverapp_dir: Path) -> dict[str, str]:
    """Return the whole environment of a training app that runs without SuperLink; it holds no secret."""
    return {**_environment(home), SERVERAPP_DIR_VARIABLE: str(serverapp_dir)}


def _path(home: Path, name: str, module: str = "") -> str:
    """Return a PATH on which Flower finds, of the programs that run tasks, *name* alone.

    Whoever submits a run chooses the kind of its task: the others would run an app past what *name* checks.

    Args:
        home: Keeps the programs that stand before Flower's.
        name: The one that may run.
        module: Runs in its place; empty for Flower's own.
    """
    folder = home / "bin"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for program in TASK_PROGRAMS:
        ours = folder / program
        ours.unlink(missing_ok=True)
        if program != name:
            line = f"echo 'aegis: {program} is not run here' >&2; exit 1"
        elif module:
            # -P: no code comes from the folder that Flower was started in.
            line = f'exec {shlex.quote(sys.executable)} -P -m {module} "$@"'
        else:
            continue
        ours.write_text(f"#!/bin/sh\n{line}\n", "utf-8")
        ours.chmod(0o700)
    return os.pathsep.join([str(folder), _environment(home)["PATH"]])


def _environment(home: Path) -> dict[str, str]:
    return {
        # Flower starts its helpers by name.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.defpath]),
        "HOME": str(home),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": _TASK_POLL,
        # Sites share cores with other work; small models lose time to threads.
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        "LC_ALL": "C.UTF-8",
    }


def _binary(name: str) -> str:
    return str(Path(sys.executable).with_name(name))
