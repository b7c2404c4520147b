"""A manager with children of its own, processes that can be watched, small ONNX models, a Redis for jobs."""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import pytest_asyncio
from onnx import TensorProto, helper, numpy_helper

from aegis_agent import AgentManager
from aegis_agent.adapters.children.fork_server import ForkServer
from aegis_agent.adapters.children.pool import WorkerPool
from aegis_agent.adapters.children.setup import WorkerLimits, WorkerSetup
from aegis_agent.domain.registry import EVERYONE
from aegis_common.testing.redis import RedisServer
from aegis_common.testing.waiting import until

HANG_GUARD_S = 60.0


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AEGIS_") or name in ("LOG_LEVEL", "OIDC_ISSUER"):
            monkeypatch.delenv(name)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_manager() -> AsyncIterator[AgentManager]:
    async with AgentManager() as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def manager(shared_manager: AgentManager) -> AsyncIterator[AgentManager]:
    """A manager without tools; what children are forked from is there already."""
    yield shared_manager
    for registration in shared_manager.registry.everything():
        await registration.tool.runner.close()
    shared_manager.registry._tools = {EVERYONE: {}}


def alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet collected does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def is_alive() -> Callable[[int], bool]:
    return alive


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], object]:
    return functools.partial(until, timeout_s=HANG_GUARD_S)


def linear_model(*, shift: int = 0, classes: int = 3, features: int = 4) -> bytes:
    """Return scores = input x W, where feature i speaks for class (i + shift) mod classes."""
    weights = np.zeros((features, classes), dtype=np.float32)
    for i in range(features):
        weights[i, (i + shift) % classes] = 1
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "weights"], ["scores"])],
        "linear",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", features])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(weights, "weights")],
    )
    return _serialized(graph)


def sum_model() -> bytes:
    """Return a model of two integer inputs and two outputs."""
    ints = TensorProto.INT64
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Mul", ["a", "b"], ["product"])],
        "sum",
        [helper.make_tensor_value_info(name, ints, [2]) for name in ("a", "b")],
        [helper.make_tensor_value_info(name, ints, [2]) for name in ("sum", "product")],
    )
    return _serialized(graph)


def _serialized(graph: onnx.GraphProto) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return bytes(model.SerializeToString())


@pytest.fixture
def make_linear() -> Callable[..., bytes]:
    return linear_model


@pytest.fixture
def make_sum() -> Callable[[], bytes]:
    return sum_model


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fork_server() -> AsyncIterator[ForkServer]:
    server = ForkServer(["aegis_agent.adapters.children.child", "aegis_agent.adapters.schemas", "numpy"])
    yield server
    await server.close()


@pytest_asyncio.fixture(loop_scope="module")
async def make_pool(fork_server: ForkServer) -> AsyncIterator[Callable[..., WorkerPool]]:
    """Makes pools for functions of `aegis_agent.testing`, named `module:function`; their tool is `t`."""
    made: list[WorkerPool] = []

    def make(
        target: str, limits: WorkerLimits | None = None, *, size: int = 1, warm_up: str = ""
    ) -> WorkerPool:
        prefix = "aegis_agent.testing."
        setup = WorkerSetup(
            target=prefix + target, warm_up=warm_up and prefix + warm_up, limits=limits or WorkerLimits()
        )
        made.append(WorkerPool("t", fork_server, setup, size=size))
        return made[-1]

    yield make
    for pool in made:
        await pool.close()


@pytest.fixture(scope="module")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for the jobs of all tests of a module."""
    made = RedisServer(tmp_path_factory.mktemp("redis"), append_only=True)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own, which it may kill."""
    made = RedisServer(tmp_path / "redis", append_only=True)
    made.start()
    yield made
    made.stop()
