"""Batches: every caller has its own rows, whoever else is in the run, fails, or goes away."""

from __future__ import annotations

import asyncio
import hashlib
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from aegis_agent.adapters.models.batcher import Batcher
from aegis_agent.adapters.models.session import OnnxSession, Stopper
from aegis_agent.domain.inference import NotStarted

KINDS = [
    (TensorProto.FLOAT, np.float32),
    (TensorProto.DOUBLE, np.float64),
    (TensorProto.FLOAT16, np.float16),
    (TensorProto.INT64, np.int64),
    (TensorProto.UINT8, np.uint8),
    (TensorProto.BOOL, np.bool_),
    (TensorProto.STRING, np.object_),
]


def _doubled(kind: int) -> bytes:
    """Return a model whose first output turns each row round and whose second gives it back."""
    nodes = [
        helper.make_node("Identity", ["input"], ["same"]),
        helper.make_node("Transpose", ["input"], ["turned"], perm=[0, 2, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "m",
        [helper.make_tensor_value_info("input", kind, ["n", "a", "b"])],
        [helper.make_tensor_value_info(name, kind, ["n", "x", "y"]) for name in ("turned", "same")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _session(data: bytes) -> OnnxSession:
    return OnnxSession(data, sha256=hashlib.sha256(data).hexdigest(), threads=1)


SESSIONS: dict[int, OnnxSession] = {int(kind): _session(_doubled(kind)) for kind, _ in KINDS}
requests = st.lists(
    st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=25
)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS), shapes=requests, seed=st.integers(0, 2**32 - 1), max_rows=st.integers(9, 32)
)
def test_answers_are_the_same_batched_or_not(
    kind: tuple[int, Any], shapes: list[tuple[int, int, int]], seed: int, max_rows: int
) -> None:
    """Whatever is put together, each caller has its own rows, bit for bit."""
    session = SESSIONS[kind[0]]
    random = np.random.default_rng(seed)
    arrays = [_random(random, shape, kind[1]) for shape in shapes]

    async def batched() -> list[Any]:
        with ThreadPoolExecutor(1) as threads:
            batcher = Batcher(session.run, ["turned", "same"], threads, max_rows=max_rows)
            work = (batcher.run({"input": a}, rows=len(a), start_by=math.inf) for a in arrays)
            return await asyncio.gather(*work)

    runs = asyncio.run(batched())

    for array, run in zip(arrays, runs, strict=True):
        turned, same = session.run({"input": array})
        assert run.rows == len(array)
        np.testing.assert_array_equal(run.outputs["turned"], turned, strict=True)
        np.testing.assert_array_equal(run.outputs["same"], same, strict=True)
    assert sum(run.batch_rows for run in runs) == sum(run.rows for run in runs)
    assert max(run.batch_rows for run in runs) <= max_rows


def _random(random: Any, shape: tuple[int, int, int], dtype: Any) -> Any:
    if dtype is np.object_:
        texts = np.empty(shape, dtype=object)
        texts[:] = random.integers(0, 1000, shape).astype(str)
        return texts
    return random.integers(0, 2 if dtype is np.bool_ else 200, shape).astype(dtype)


async def test_one_bad_request_of_a_batch_fails_alone() -> None:
    def compute(inputs: Any, _: Stopper) -> list[Any]:
        if (inputs["input"] < 0).any():
            raise ValueError("a negative number")
        return [inputs["input"] * 2]

    with ThreadPoolExecutor(1) as threads:
        batcher = Batcher(compute, ["output"], threads, max_rows=32)
        arrays = [np.full((1, 2), value, np.float32) for value in (1, -1, 3)]
        got = await asyncio.gather(
            *(batcher.run({"input": a}, rows=1, start_by=math.inf) for a in arrays), return_exceptions=True
        )

    assert isinstance(got[1], ValueError)
    assert [got[0].outputs["output"][0, 0], got[2].outputs["output"][0, 0]] == [2, 6]  # type: ignore[union-attr]


async def test_a_run_that_does_not_give_a_row_for_each_is_done_again_alone() -> None:
    def compute(inputs: Any, _: Stopper) -> list[Any]:
        array = inputs["input"]
        return [array[array[:, 0] > 0]]

    with ThreadPoolExecutor(1) as threads:
        batcher = Batcher(compute, ["output"], threads, max_rows=32)
        arrays = [np.array([[value, index]], np.float32) for index, value in enumerate((1, 0, 1))]
        got = await asyncio.gather(*(batcher.run({"input": a}, rows=1, start_by=math.inf) for a in arrays))

    assert [run.outputs["output"].tolist() for run in got] == [[[1, 0]], [], [[1, 2]]]


async def test_a_batch_goes_on_for_those_who_still_wait() -> None:
    go, began = threading.Event(), threading.Event()

    def compute(inputs: Any, _: Stopper) -> list[Any]:
        began.set()
        go.wait(30)
        return [inputs["input"]]

    with ThreadPoolExecutor(1) as threads:
        batcher = Batcher(compute, ["output"], threads, max_rows=32)
        loop = asyncio.get_running_loop()
        work = [
            asyncio.ensure_future(batcher.run({"input": rows(i)}, rows=1, start_by=math.inf))
            for i in range(3)
        ]
        await asyncio.sleep(0)
        await asyncio.to_thread(began.wait, 30)
        late = asyncio.ensure_future(batcher.run({"input": rows(0)}, rows=1, start_by=loop.time() + 0.02))
        work[1].cancel()
        with pytest.raises(NotStarted):
            await late
        go.set()
        first, third = await work[0], await work[2]

    assert work[1].cancelled()
    np.testing.assert_array_equal(first.outputs["output"], rows(0))
    np.testing.assert_array_equal(third.outputs["output"], rows(2))


def rows(seed: int) -> Any:
    return np.random.default_rng(seed).random((1, 2)).astype(np.float32)
