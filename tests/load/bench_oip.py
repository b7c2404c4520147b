"""What an inference costs over the Open Inference Protocol, and what batching gains, against MLServer.

Both log at their level INFO, a line for each request, each to a file of its own.

MLServer pins its dependencies, so it lives in an environment of its own, `.venv-bench`, made when missing;
where that fails, the bench says why and goes on without it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from load.harness import Bench, Contender, Figure, Samples

from aegis_common.pki import server_dns
from aegis_common.testing.ports import free_port
from oip_support import convolution, dense, infer_request

ROOT: Final = Path(__file__).parents[2]
ENVIRONMENT: Final = ROOT / ".venv-bench"
PEER: Final = ("mlserver==1.7.1", "onnxruntime==1.32.0")
HERE: Final = Path(__file__).parent
AT_ONCE: Final = 16
REQUESTS: Final = 1200
BATCH_AT_ONCE: Final = 64
BATCH_REQUESTS: Final = 640
_START_S: Final = 120.0

OURS, BARE, MLSERVER, BATCHING = "aegis, full chain", "aegis, bare servicer", "MLServer", "MLServer, batching"
RATIO: Final = "aegis against MLServer, same round"

SHAPES: Final[Mapping[str, tuple[int, ...]]] = {"mlp": (1, 64), "conv": (1, 3, 32, 32), "bigmlp": (1, 1024)}

FIGURES: Final = (
    *(
        Figure(
            name=f"cpu_{model}", title=f"CPU per request of {model}, {AT_ONCE} at once", unit="us", scale=1e6
        )
        for model in SHAPES
    ),
    Figure(
        name="time_bigmlp",
        title=f"Time per request of bigmlp, {BATCH_AT_ONCE} at once (its inverse is the throughput)",
        unit="us",
        scale=1e6,
    ),
    Figure(
        name="full_ratio",
        title="CPU of the full chain / CPU of MLServer, each of the three models",
        unit="x",
        scale=1,
        aims={"p50": 0.9},
    ),
    Figure(
        name="bare_ratio",
        title="CPU of the bare servicer / CPU of MLServer, each of the three models",
        unit="x",
        scale=1,
        aims={"p50": 0.65},
    ),
    *(
        Figure(
            name=f"batch_ratio_{kind}",
            title=f"Time per request of bigmlp, {kind} / MLServer, the better of its two (3x is 0.333)",
            unit="x",
            scale=1,
            aims={"p50": 1 / 3},
        )
        for kind in ("full", "bare")
    ),
)


@dataclass(slots=True)
class Target:
    """A server that answers."""

    process: psutil.Process
    target: str
    tls: dict[str, str] | None = None


class Client:
    """The client process."""

    def __init__(self, process: asyncio.subprocess.Process, bodies: Path) -> None:
        self._process, self._bodies = process, bodies

    async def run(self, to: Target, model: str, *, count: int, at_once: int) -> float:
        """Return how long *count* requests took."""
        body = str(self._bodies / f"{model}.request")
        job = {"target": to.target, "tls": to.tls, "body": body, "count": count, "at_once": at_once}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        told = json.loads(await self._process.stdout.readline())
        if told["failed"]:
            raise RuntimeError(f"{told['failed']} requests of {model} to {to.target} failed")
        return float(told["seconds"])


class Measured:
    """One contender: CPU of each model and, where it batches, the time of the large one."""

    def __init__(self, name: str, to: Target, client: Client, latest: dict[str, dict[str, float]]) -> None:
        self.name, self._to, self._client, self._latest = name, to, client, latest

    async def measure(self) -> Samples:
        found: dict[str, float] = {}
        for model in SHAPES:
            await self._client.run(self._to, model, count=100, at_once=AT_ONCE)
            before = cpu_seconds(self._to.process)
            await self._client.run(self._to, model, count=REQUESTS, at_once=AT_ONCE)
            found[f"cpu_{model}"] = (cpu_seconds(self._to.process) - before) / REQUESTS
        took = await self._client.run(self._to, "bigmlp", count=BATCH_REQUESTS, at_once=BATCH_AT_ONCE)
        found["time_bigmlp"] = took / BATCH_REQUESTS
        self._latest[self.name] = found
        return {name: [value] for name, value in found.items()}


class Ratios:
    """What the others have measured last, one by the other."""

    def __init__(self, latest: dict[str, dict[str, float]]) -> None:
        self._latest = latest

    async def measure(self) -> Samples:
        if not {OURS, BARE, MLSERVER, BATCHING} <= self._latest.keys():
            return {}
        ours, bare, peer, batching = (self._latest[name] for name in (OURS, BARE, MLSERVER, BATCHING))
        costs = [f"cpu_{model}" for model in SHAPES]
        best = min(peer["time_bigmlp"], batching["time_bigmlp"])
        return {
            "full_ratio": [ours[name] / peer[name] for name in costs],
            "bare_ratio": [bare[name] / peer[name] for name in costs],
            "batch_ratio_full": [ours["time_bigmlp"] / best],
            "batch_ratio_bare": [bare["time_bigmlp"] / best],
        }


@asynccontextmanager
async def contenders() -> AsyncIterator[Sequence[Contender]]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_models(folder)
        latest: dict[str, dict[str, float]] = {}
        client = Client(await _started(stack, sys.executable, str(HERE / "oip_client.py")), folder)
        made = []
        for kind, name in (("full", OURS), ("bare", BARE)):
            target = await _ours(stack, kind, folder)
            made.append(Measured(name, target, client, latest))
        for name, options in ((MLSERVER, {}), (BATCHING, {"max_batch_size": 32, "max_batch_time": 0.002})):
            peer = await _peer(stack, folder, options)
            if peer is not None:
                made.append(Measured(name, peer, client, latest))
        yield [
            *(Contender(name=item.name, measure=item.measure) for item in made),
            Contender(name=RATIO, measure=Ratios(latest).measure),
        ]


def write_models(folder: Path) -> None:
    """Write the models, and a request for each."""
    models = {
        "mlp": dense([64, 256, 256, 10]),
        "conv": convolution(),
        "bigmlp": dense([1024, 2048, 2048, 10]),
    }
    random = np.random.default_rng(0)
    for name, data in models.items():
        (folder / f"{name}.onnx").write_bytes(data)
        array = random.random(SHAPES[name]).astype(np.float32)
        request = infer_request(name, "input", array, "FP32")
        (folder / f"{name}.request").write_bytes(request.SerializeToString())


def cpu_seconds(process: psutil.Process) -> float:
    """Return what a process and its children have used, in seconds, to the nanosecond."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            tasks = list(Path(f"/proc/{one.pid}/task").iterdir())
            total += sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total / 1e9


async def _ours(stack: AsyncExitStack, kind: str, folder: Path) -> Target:
    home = folder / kind
    home.mkdir()
    for name in SHAPES:
        (home / f"{name}.onnx").symlink_to(folder / f"{name}.onnx")
    log = home / "log"
    command = (sys.executable, str(HERE / "oip_server.py"), kind, str(home))
    process = await _started(stack, *command, stderr=log)
    assert process.stdout is not None
    async with asyncio.timeout(_START_S):
        line = await process.stdout.readline()
    if not line:
        raise RuntimeError(f"{kind} has ended before it answered: {log.read_text()[-2000:]}")
    target = Target(psutil.Process(process.pid), f"127.0.0.1:{json.loads(line)['port']}")
    if kind == "full":
        pair = next(home.rglob("sdk/tls.crt"))
        bundle = next(home.rglob("bundle.crt"))
        target.tls = {
            "cert": str(pair),
            "key": str(pair.with_suffix(".key")),
            "bundle": str(bundle),
            "name": server_dns("agent", "aegis"),
        }
    return target


async def _peer(stack: AsyncExitStack, folder: Path, options: dict[str, Any]) -> Target | None:
    why = await asyncio.to_thread(_install)
    if why:
        sys.stderr.write(f"MLServer is left out: {why}\n")
        return None
    home = Path(tempfile.mkdtemp(dir=folder))
    (home / "oip_mlserver.py").write_bytes((HERE / "oip_mlserver.py").read_bytes())
    http, port, metrics = free_port(), free_port(), free_port()
    settings = {
        "http_port": http,
        "grpc_port": port,
        "metrics_port": metrics,
        "parallel_workers": 0,
        "debug": False,
        "host": "127.0.0.1",
    }
    (home / "settings.json").write_text(json.dumps(settings))
    for name in SHAPES:
        (home / name).mkdir()
        model = {
            "name": name,
            "implementation": "oip_mlserver.OnnxModel",
            "parameters": {"uri": str(folder / f"{name}.onnx")},
            **options,
        }
        (home / name / "model-settings.json").write_text(json.dumps(model))
    command = (str(ENVIRONMENT / "bin" / "mlserver"), "start", str(home))
    log = home / "log"
    process = await _started(stack, *command, cwd=home, stdout=log, stderr=log)
    await _listens(port, process, log)
    return Target(psutil.Process(process.pid), f"127.0.0.1:{port}")


def _install() -> str:
    """Make MLServer's environment if it is missing; return why that did not work, or an empty string."""
    if (ENVIRONMENT / "bin" / "mlserver").exists():
        return ""
    python = str(ENVIRONMENT / "bin" / "python")
    for command in (
        [sys.executable, "-m", "venv", str(ENVIRONMENT)],
        [python, "-m", "pip", "install", "--quiet", *PEER],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return (done.stderr or done.stdout).strip().splitlines()[-1]
    return ""


async def _started(
    stack: AsyncExitStack,
    *command: str,
    cwd: Path | None = None,
    stdout: Path | None = None,
    stderr: Path | None = None,
) -> asyncio.subprocess.Process:
    """Start a process; what it logs goes to files, for a terminal would cost it more than a request does."""
    files = [stack.enter_context(path.open("ab")) if path else None for path in (stdout, stderr)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=files[0] or pipe, stderr=files[1], cwd=cwd
    )
    stack.push_async_callback(_ended, process)
    return process


async def _ended(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 20)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _listens(port: int, process: asyncio.subprocess.Process, log: Path) -> None:
    async with asyncio.timeout(_START_S):
        while process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.2)
                continue
            writer.close()
            return
    raise RuntimeError(f"MLServer has ended before it answered: {log.read_text()[-2000:]}")


BENCH: Final = Bench(
    name="oip",
    about="the Open Inference Protocol, three models, against MLServer",
    figures=FIGURES,
    contenders=contenders,
    rounds=4,
    peers=("onnxruntime", "grpcio"),
)
