"""What runs a bundle's model: the first of its providers that there is here."""

from __future__ import annotations

from typing import Any

import onnxruntime
import pytest
from services.agent.tests.model_bundles import Bundles, ask

from aegis_agent.adapters.children.fork_server import ForkServer
from aegis_agent.adapters.models.options import ModelOptions
from aegis_agent.domain.errors import ModelNotLoadable
from aegis_agent.domain.model_tools import runner_of
from bundle_support import RAW, affine, bundle

pytestmark = pytest.mark.asyncio(loop_scope="module")
ORT: Any = onnxruntime
NO_CUDA = pytest.mark.skipif(
    "CUDAExecutionProvider" in ORT.get_available_providers(), reason="this onnxruntime has CUDA"
)


@NO_CUDA
@pytest.mark.parametrize("providers", [["CPU"], ["CUDA", "CPU"], ["CPU", "CUDA"]])
async def test_the_first_that_is_here_runs_the_model(fork_server: ForkServer, providers: list[str]) -> None:
    async with Bundles(fork_server) as bundles:
        tool = await bundles.load(bundle(RAW, affine([[2]]), providers=providers))

        assert await ask(tool, rows=[[3]]) == {"out": [[6]]}
    assert runner_of(tool).profile.provider == "CPU"


@NO_CUDA
async def test_a_model_that_nothing_here_may_run_says_what_there_is(fork_server: ForkServer) -> None:
    async with Bundles(fork_server) as bundles:
        with pytest.raises(ModelNotLoadable) as caught:
            await bundles.load(bundle(RAW, affine([[2]]), providers=["CUDA"]))

    assert "to be run by CUDA, and this agent has only CPU" in caught.value.message


@pytest.mark.skipif(
    "CUDAExecutionProvider" not in ORT.get_available_providers(), reason="this onnxruntime has no CUDA"
)
async def test_cuda_runs_a_model_that_asks_for_it(fork_server: ForkServer) -> None:
    async with Bundles(fork_server) as bundles:
        tool = await bundles.load(bundle(RAW, affine([[2]]), providers=["CUDA"]))

        assert await ask(tool, rows=[[3]]) == {"out": [[6]]}
    assert runner_of(tool).profile.provider == "CUDA"


@NO_CUDA
async def test_children_keep_their_limits_where_there_is_no_cuda() -> None:
    options = ModelOptions()

    assert options.limits_with(["CUDA", "CPU"]) is options.limits
