"""Tries what no training app may do, from inside Flower's ServerApp process, and writes down what it got."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Context, Message
from flwr.cli.build import build_fab_from_disk
from flwr.clientapp import ClientApp
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import RegisterNodeRequest, StartRunRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.runtime import RuntimeHttpClient

from aegis_fl_coordinator.serverapp.link import CoordinatorLink

client = ClientApp()
server = ServerApp()
LOOT = "loot.json"


@client.train()
def nothing(message: Message, context: Context) -> Message:
    """Do nothing; no node takes part."""
    return message


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Try every door; a run of the burglar's own making stops here."""
    mine = str(context.run_config["aegis-run"])
    if mine == "second":
        return
    other = str(context.run_config["other"])
    runs = Path(os.environ["AEGIS_FL_SERVERAPP_DIR"])
    attempts: dict[str, Callable[[], Any]] = {
        "RegisterNode": register_node,
        "StartRun": start_run,
        "AcquireTask": acquire_task,
        "another run, with my token": lambda: round_of(runs, mine, other),
        "another run, with its token": lambda: read(runs / other / "token"),
        "the coordinator's runs": lambda: read(runs.parent / "runs.db"),
        "SuperLink's key": superlink_key,
        "a secret in the environment": secrets,
    }
    (runs / mine / LOOT).write_text(json.dumps({name: tried(attempt) for name, attempt in attempts.items()}))


def tried(attempt: Callable[[], Any]) -> str:
    try:
        return f"got in: {str(attempt())[:40]}"
    except BaseException as error:
        return f"refused: {error!r}"


def read(path: Path) -> str:
    return path.read_bytes()[:27].decode("ascii", "replace")


def option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


def address() -> str:
    return option("--runtime-api-address")


def authority() -> bytes:
    return Path(option("--root-certificates")).read_bytes()


def control() -> ControlHttpClient:
    return ControlHttpClient.from_server_address(
        address(), insecure=False, root_certificates=authority(), interceptors=[]
    )


def register_node() -> object:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return control().RegisterNode(RegisterNodeRequest(public_key=pem)).node_id


def start_run() -> object:
    bundle = build_fab_from_disk(Path(__file__).parent)
    fab = fab_to_proto(Fab(hashlib.sha256(bundle).hexdigest(), bundle, {}))
    config = user_config_to_proto({"aegis-run": "second"})
    return control().StartRun(StartRunRequest(fab=fab, override_config=config)).run_id


def acquire_task() -> object:
    runtime = RuntimeHttpClient.from_server_address(
        server_address=address(), insecure=False, root_certificates=authority(), interceptors=[]
    )
    return type(runtime.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-serverapp"]))).__name__


def round_of(runs: Path, mine: str, other: str) -> object:
    """Ask the coordinator for a round of another run, with the token of this one."""
    mixed = runs / mine / "mixed"
    mixed.mkdir(exist_ok=True)
    record = json.loads((runs / mine / "run.json").read_text()) | {"run_id": other}
    (mixed / "run.json").write_text(json.dumps(record))
    (mixed / "token").write_bytes((runs / mine / "token").read_bytes())
    CoordinatorLink(mixed).await_round(1, lambda: 9)
    return "round 1 may start"


def superlink_key() -> object:
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or ()
        if "--ssl-keyfile" in words:
            return read(Path(words[words.index("--ssl-keyfile") + 1]))
    raise FileNotFoundError("no SuperLink is seen")


def secrets() -> object:
    found = [name for name in os.environ if "SIGNING" in name or "OIDC" in name or "REDIS" in name]
    if not found:
        raise KeyError("none")
    return found
