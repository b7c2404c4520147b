"""Bundles among the models: swapped, put out of memory, brought back, and on raw tensors."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from services.agent.tests.model_bundles import Bundles, ask, put
from services.agent.tests.model_publisher import Publisher, agent

from aegis_agent.adapters.children.fork_server import ForkServer
from aegis_agent.adapters.models.runner import OnnxRunner
from aegis_agent.domain.call import Priority
from aegis_agent.domain.fair_queue import Claim
from aegis_agent.domain.inference import ModelRunner, Strategy
from aegis_agent.domain.model_errors import ModelUnloaded
from aegis_agent.domain.model_tools import runner_of
from aegis_agent.domain.slots import Slots
from aegis_agent.domain.tool import Tool
from aegis_common.testing.waiting import until
from bundle_support import BLUE, COLOURS, FLOATS, RED, bundle, large_grey, mean_colour, model, picture

pytestmark = pytest.mark.asyncio(loop_scope="module")

SWAPPED = ["blue", "green", "red"]


async def best(tool: Tool, colour: Any = RED) -> str:
    return str((await ask(tool, image=picture(colour), top_k=1))["labels"][0]["label"])


async def infer(runner: ModelRunner, array: Any) -> Any:
    now = asyncio.get_running_loop().time()
    name, out = runner.signature.inputs[0].name, runner.signature.outputs[0].name
    run = await runner.infer({name: array}, arrived=now, deadline=now + 60, start_by=math.inf)
    return run.outputs[out]


async def test_an_alias_moves_without_a_failed_call(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path)
    async with agent(publisher) as (manager, models):
        await put(models, publisher, "v1", bundle(COLOURS, mean_colour()), "production")
        await put(models, publisher, "v2", bundle(COLOURS, mean_colour(), labels=SWAPPED))
        stop = asyncio.Event()
        got: list[str] = []

        async def call() -> None:
            while not stop.is_set():
                answer = await manager.dispatch("colours", {"image": picture(RED), "top_k": 1})
                got.append(answer["labels"][0]["label"])

        calls = [asyncio.create_task(call()) for _ in range(3)]
        for version in ("v2", "v1", "v2"):
            await models.moves.set_alias("colours", "production", version, tenant="default", by="x")
            seen = len(got)
            await until(lambda seen=seen: len(got) >= seen + 10)  # type: ignore[misc]
        stop.set()
        await asyncio.gather(*calls)

    assert set(got) == {"red", "blue"}
    assert got[-1] == "blue"


async def test_it_is_served_again_after_a_restart(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path)
    async with agent(publisher) as (_, models):
        await put(models, publisher, "v1", bundle(COLOURS, mean_colour()), "production")
    async with agent(publisher) as (manager, _):
        answer = await manager.dispatch("colours", {"image": picture(BLUE)})

    assert answer["labels"][0]["label"] == "blue"


async def test_a_bundle_makes_room_with_all_it_holds_and_comes_back(fork_server: ForkServer) -> None:
    labels = [f"label {i}" for i in range(20_000)]
    files = {"labels.txt": "\n".join(labels).encode()}
    data = bundle(COLOURS, affine_image(len(labels)), files, labels="labels.txt")
    async with Bundles(fork_server) as bundles:
        tool = await bundles.load(data)
        runner = runner_of(tool)
        with_labels, size = runner.resident_bytes, bundles.loader._residency.held_bytes
    async with Bundles(fork_server, memory_bytes=int(size * 1.5)) as bundles:
        first, second = await bundles.load(data, "a"), await bundles.load(data, "b")
        put_out = not runner_of(first).resident_bytes
        answers = await asyncio.gather(*(best(first) for _ in range(4)))
        fetched, held = bundles.fetched, bundles.loader._residency.held_bytes
        back = bool(runner_of(first).resident_bytes), bool(runner_of(second).resident_bytes)

    assert with_labels >= runner.profile.memory_bytes + sum(map(len, labels))
    assert put_out
    assert back == (True, False)
    assert (fetched, held <= size * 1.5) == (1, True)
    assert answers == ["label 7"] * 4


def affine_image(classes: int) -> bytes:
    """Return a model on 3 x 8 x 8 whose best class is always number 7."""
    weights, bias = np.zeros((3, classes), np.float32), np.zeros(classes, np.float32)
    bias[7] = 1
    nodes = [
        helper.make_node("ReduceMean", ["pixels"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["means", "w", "b"], ["out"]),
    ]
    return model(
        nodes,
        [("pixels", FLOATS, ["n", 3, 8, 8])],
        [("out", FLOATS, ["n", classes])],
        {"w": weights, "b": bias},
    )


async def test_the_inference_protocol_has_the_models_own_tensors(fork_server: ForkServer) -> None:
    async with Bundles(fork_server) as bundles:
        tool = await bundles.load(bundle(COLOURS, mean_colour()))
        runner = runner_of(tool)
        array = np.zeros((2, 3, 8, 8), np.float32)
        array[0, 1] = array[1, 2] = 1
        got = await infer(runner, array)
        await best(tool)
        extra = runner.resident_bytes - runner.profile.memory_bytes

    assert (runner.signature.inputs[0].name, runner.signature.outputs[0].name) == ("pixels", "scores")
    assert got.tolist() == [[0, 1, 0], [0, 0, 1]]
    assert extra > 1 << 20, "children that decode images count"
    assert list(runner.labels) == ["red", "green", "blue"]
    assert (runner.statistics.success.count, runner.statistics.compute_input.count) == (2, 1)


async def test_an_unloaded_bundle_refuses_calls_before_anything_is_read(fork_server: ForkServer) -> None:
    async with Bundles(fork_server) as bundles:
        tool = await bundles.load(bundle(COLOURS, mean_colour()))
        runner = runner_of(tool)
        runner.available = False
        runner.unload()
        with pytest.raises(ModelUnloaded):
            await best(tool)
        runner.available = True

        assert await best(tool, BLUE) == "blue"
        assert bundles.fetched == 1


async def test_a_call_that_was_let_in_finishes_when_the_model_is_unloaded_meanwhile(
    fork_server: ForkServer,
) -> None:
    async with Bundles(fork_server) as bundles:
        tool = await bundles.load(bundle(COLOURS, mean_colour()))
        runner = runner_of(tool)
        call = asyncio.ensure_future(ask(tool, image=large_grey()))
        await asyncio.sleep(0.01)
        started = not call.done()
        runner.available = False
        runner.unload()
        answer = await call
        await bundles.loader._residency.settled()

        assert bundles.loader._residency.held_bytes == 0
    assert started
    assert len(answer["labels"]) == 3


async def test_a_call_past_its_deadline_ends_with_its_child(fork_server: ForkServer) -> None:
    async with Bundles(fork_server) as bundles:
        tool = await bundles.load(bundle(COLOURS, mean_colour()))
        large = large_grey()
        with pytest.raises(TimeoutError):
            await ask(tool, timeout_s=0.01, image=large)

        assert await best(tool, BLUE) == "blue"


async def test_children_that_prepare_input_share_the_slots_of_all_children(fork_server: ForkServer) -> None:
    """Else an operator's bound on calls in child processes would not hold for models."""
    shared = Slots(1, size=None, weights={})
    claim = Claim("default", Priority.NORMAL, math.inf)
    async with Bundles(fork_server, shared=shared) as bundles:
        tool = await bundles.load(bundle(COLOURS, mean_colour()))
        async with shared.held(claim):
            call = asyncio.ensure_future(best(tool, BLUE))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(call), 0.2)
            waiting = len(shared.queue)
        answer = await call

    assert (waiting, answer, shared.running) == (1, "blue", 0)


async def test_a_bundle_whose_model_runs_in_children_holds_one_slot_for_both(
    fork_server: ForkServer,
) -> None:
    shared = Slots(1, size=None, weights={})
    async with Bundles(fork_server, shared=shared) as bundles:
        tool = await bundles.load(bundle(COLOURS, mean_colour()))
        runner = tool.runner
        assert isinstance(runner, OnnxRunner)
        runner.unload()
        runner.profile = replace(runner.profile, strategy=Strategy.CHILD, inline_elements=0, rows=False)
        async with shared.held(Claim("default", Priority.NORMAL, math.inf)):  # as the dispatcher does
            answer = await best(tool, BLUE)

    assert answer == "blue"
