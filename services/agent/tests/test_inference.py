"""How models are run: measured, batched without a change in any answer, stopped, and held within a bound."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from onnx import TensorProto, helper, numpy_helper

from aegis_agent import AgentManager
from aegis_agent.adapters.models.loader import OnnxLoader, profile_of
from aegis_agent.adapters.models.onnx_models import ChildModel, InProcessModel
from aegis_agent.adapters.models.options import ModelOptions
from aegis_agent.adapters.models.runner import OnnxRunner
from aegis_agent.domain.errors import ModelNotLoadable, ToolFailed
from aegis_agent.domain.inference import Strategy
from aegis_agent.domain.model import ModelVersion
from aegis_agent.domain.model_errors import ModelMemoryExhausted
from oip_support import added, centred, convolution, dense, endless, identity, slow, stubborn

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEEP = dense([64, 2048, 2048, 8])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def manager() -> AsyncIterator[AgentManager]:
    async with AgentManager() as made:
        yield made


@asynccontextmanager
async def loader(manager: AgentManager, **options: Any) -> AsyncIterator[Loading]:
    made = OnnxLoader(manager.fork_server, ModelOptions(**options))
    try:
        yield Loading(made)
    finally:
        await made.close()


class Loading:
    """Loads models without a store."""

    def __init__(self, made: OnnxLoader) -> None:
        self.loader = made
        self.fetched: list[str] = []

    async def load(self, data: bytes, name: str = "m") -> OnnxRunner:
        version = ModelVersion(
            tenant="default",
            model=name,
            version="v1",
            sha256=hashlib.sha256(data).hexdigest(),
            size_bytes=len(data),
            format="onnx",
            provenance={},
            signer_key_id="",
            create_time=datetime(2026, 11, 25, tzinfo=UTC),
        )

        async def fetch() -> bytes:
            self.fetched.append(name)
            return data

        runner = (await self.loader.load(version, data, fetch)).runner
        assert isinstance(runner, OnnxRunner)
        return runner


async def infer(runner: OnnxRunner, array: Any, *, deadline_s: float = 60, name: str = "input") -> Any:
    now = asyncio.get_running_loop().time()
    run = await runner.infer({name: array}, arrived=now, deadline=now + deadline_s, start_by=math.inf)
    return run.outputs[runner.signature.outputs[0].name]


def rows(count: int, width: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).random((count, width)).astype(np.float32)


async def test_the_measurement_chooses_how_a_model_is_run(manager: AgentManager) -> None:
    async with loader(manager) as loading:
        found = {
            name: (await loading.load(data, name)).profile
            for name, data in (
                ("tiny", dense([8, 8])),
                ("deep", DEEP),
                ("conv", convolution()),
                ("endless", endless()),
                ("centred", centred()),
                ("words", identity(TensorProto.STRING, ["n"])),
            )
        }

    assert found["tiny"].strategy is Strategy.INLINE
    assert found["deep"].strategy is Strategy.BATCH
    assert found["endless"].strategy is Strategy.CHILD
    assert {name: found[name].rows for name in ("tiny", "deep", "conv", "centred")} == {
        "tiny": True,
        "deep": True,
        "conv": True,
        "centred": False,
    }
    assert found["deep"].memory_bytes >= len(DEEP)
    assert "loop" in found["endless"].reason


@pytest.mark.parametrize(
    ("about", "strategy"),
    [
        ({"batch_1_us": 100.0, "terminate_ms": 0.0}, Strategy.INLINE),
        ({"batch_1_us": 100.0, "terminate_ms": 51.0}, Strategy.CHILD),
        ({"batch_1_us": 400.0, "batch_8_us": 1600.0, "rows": True, "terminate_ms": 0.0}, Strategy.BATCH),
        ({"batch_1_us": 400.0, "batch_8_us": 2400.0, "rows": True, "terminate_ms": 0.0}, Strategy.THREAD),
        ({"batch_1_us": 400.0, "batch_8_us": 1600.0, "rows": False, "terminate_ms": 0.0}, Strategy.THREAD),
        ({"batch_1_us": 400.0, "terminate_ms": 20.0}, Strategy.THREAD),
        ({"reason": "it runs on nothing"}, Strategy.CHILD),
    ],
)
async def test_each_measurement_has_its_way(about: dict[str, Any], strategy: Strategy) -> None:
    assert profile_of({"memory_bytes": 1, **about}).strategy is strategy


async def test_a_dense_model_gives_the_same_bits_alone_together_and_in_pieces(manager: AgentManager) -> None:
    async with loader(manager) as loading:
        runner = await loading.load(DEEP)
        arrays = [rows(1 + i % 7, 64, i) for i in range(60)] + [rows(700, 64, 99)]
        alone = [await infer(runner, array) for array in arrays]
        together = await asyncio.gather(*(infer(runner, array) for array in arrays))
        counted = runner.statistics

    assert runner.profile.piece_rows < 700
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)
    assert counted.executions < counted.success.count == 2 * len(arrays)
    assert counted.inferences == 2 * sum(map(len, arrays))
    assert max(counted.batches) > 1


async def test_requests_whose_inputs_differ_in_rows_are_never_put_together(manager: AgentManager) -> None:
    """Two requests of 2 + 3 and 3 + 2 rows would make a run of 5 + 5, in which each had rows of the other."""
    floats, nodes = TensorProto.FLOAT, [helper.make_node("MatMul", ["a", "w"], ["m0"])]
    for i in range(4):
        nodes.append(helper.make_node("MatMul", [f"m{i}", "w"], [f"m{i + 1}"]))
    nodes.append(helper.make_node("Add", ["m4", "b"], ["sum"]))
    weight = numpy_helper.from_array(np.eye(1024, dtype=np.float32), "w")
    graph = helper.make_graph(
        nodes,
        "m",
        [helper.make_tensor_value_info(name, floats, [f"n{name}", 1024]) for name in "ab"],
        [helper.make_tensor_value_info("sum", floats, ["n", 1024])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    async with loader(manager) as loading:
        runner = await loading.load(bytes(model.SerializeToString()))
        now = asyncio.get_running_loop().time()

        async def ask(first: int, second: int) -> Any:
            inputs = {"a": rows(first, 1024), "b": rows(second, 1024)}
            return await runner.infer(inputs, arrived=now, deadline=now + 60, start_by=math.inf)

        await ask(1, 1)
        got = await asyncio.gather(ask(2, 3), ask(3, 2), ask(4, 4), ask(4, 1), return_exceptions=True)

    assert runner.profile.strategy is Strategy.BATCH
    assert [type(item) for item in got[:2]] == [ToolFailed, ToolFailed]
    assert [len(item.outputs["sum"]) for item in got[2:]] == [4, 4]  # type: ignore[union-attr]


async def test_a_model_may_have_more_threads(manager: AgentManager) -> None:
    async with loader(manager, threads=2) as loading:
        one, other = await loading.load(DEEP, "deep"), await loading.load(endless(), "endless")
        out = await infer(one, rows(3, 64))
        count = await infer(other, np.array(7, np.int64), name="times")

    assert (out.shape, count.tolist()) == ((3, 8), [7])


async def test_a_run_past_its_deadline_is_stopped_and_the_next_one_runs(manager: AgentManager) -> None:
    async with loader(manager, concurrency=1) as loading:
        runner = await loading.load(slow())
        full = runner.profile.batch_1_us
        assert full is not None
        array = np.ones((256, 96), dtype=np.float32)
        await runner.load()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(full / 1e6 / 5):
                await infer(runner, array)
        model = runner._slot.loaded
        assert isinstance(model, InProcessModel)
        busy = model._slots.locked()
        await infer(runner, array)

    assert runner.profile.strategy is Strategy.THREAD
    assert runner.profile.terminate_ms is not None
    assert runner.profile.terminate_ms <= 50
    assert not busy


async def test_a_model_of_one_long_step_is_killed_instead(manager: AgentManager) -> None:
    async with loader(manager, concurrency=1) as loading:
        runner = await loading.load(stubborn())
        array = np.zeros((1, 1, 300, 300), dtype=np.float32)
        await runner.load()
        assert isinstance(runner._slot.loaded, ChildModel)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await infer(runner, array)
        out = await infer(runner, array)

    assert runner.profile.strategy is Strategy.CHILD
    assert runner.profile.terminate_ms is not None
    assert runner.profile.terminate_ms > 50
    assert out.shape == (1, 1, 200, 200)


async def test_a_run_that_did_not_stop_moves_the_model_into_children(manager: AgentManager) -> None:
    async with loader(manager) as loading:
        runner = await loading.load(DEEP)
        before = await infer(runner, rows(3, 64))
        model = runner._slot.loaded
        assert isinstance(model, InProcessModel)
        model._stubborn(0.25)
        after = await infer(runner, rows(3, 64))

        assert isinstance(runner._slot.loaded, ChildModel)
    assert runner.profile.strategy is Strategy.CHILD
    np.testing.assert_array_equal(before, after, strict=True)


async def test_the_least_recently_used_model_makes_room_and_comes_back(manager: AgentManager) -> None:
    data = {name: dense([256, 1024, 4], seed=seed) for seed, name in enumerate("abc")}
    async with loader(manager, memory_bytes=1 << 40) as loading:
        size = max([(await loading.load(data[name], name)).profile.memory_bytes for name in "abc"])
    async with loader(manager, memory_bytes=int(size * 2.5)) as loading:
        a, b, c = [await loading.load(data[name], name) for name in "abc"]
        first = [await infer(runner, rows(2, 256)) for runner in (a, b)]
        await infer(a, rows(2, 256))
        await infer(c, rows(2, 256))
        held = [bool(runner.resident_bytes) for runner in (a, b, c)]
        loading.fetched.clear()
        again = await asyncio.gather(*(infer(b, rows(2, 256)) for _ in range(8)))
        fetched = list(loading.fetched)
        residency = loading.loader._residency

        assert residency.held_bytes <= size * 2.5
    assert held == [True, False, True]
    assert fetched == ["b"]
    for array in again:
        np.testing.assert_array_equal(array, first[1], strict=True)


async def test_a_model_in_use_is_not_put_out(manager: AgentManager) -> None:
    data = dense([256, 1024, 4])
    async with loader(manager, memory_bytes=1 << 40) as loading:
        size = (await loading.load(data)).profile.memory_bytes
    async with loader(manager, memory_bytes=int(size * 1.5)) as loading:
        a, b = await loading.load(data, "a"), await loading.load(data, "b")
        await a.load()
        async with loading.loader._residency.use(a._slot):
            with pytest.raises(ModelMemoryExhausted) as caught:
                await b.load()
        await b.load()

        assert (bool(a.resident_bytes), bool(b.resident_bytes)) == (False, True)
    assert caught.value.metadata["limit_bytes"] == str(int(size * 1.5))


async def test_a_model_that_fits_nowhere_is_refused_by_size(manager: AgentManager) -> None:
    async with loader(manager, memory_bytes=1 << 16) as loading:
        runner = await loading.load(DEEP)
        with pytest.raises(ModelMemoryExhausted):
            await runner.load()

        assert loading.loader._residency.held_bytes == 0


async def test_what_a_model_reports_is_that_calls_error(manager: AgentManager) -> None:
    """The sizes agree with the signature, but not with each other."""
    async with loader(manager) as loading:
        runner = await loading.load(added())
        now = asyncio.get_running_loop().time()
        with pytest.raises(ToolFailed) as caught:
            await runner.infer(
                {"a": rows(2, 2), "b": rows(3, 2)}, arrived=now, deadline=now + 60, start_by=math.inf
            )

    assert caught.value.metadata["tool"] == "m"


async def test_a_file_that_is_no_model_is_refused(manager: AgentManager) -> None:
    async with loader(manager) as loading:
        with pytest.raises(ModelNotLoadable):
            await loading.load(b"junk")
