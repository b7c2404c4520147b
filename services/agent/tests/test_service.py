"""The service as a process: settings, plugins, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import psutil
import pytest

from aegis.agent.v1 import agent_service_pb2 as pb
from aegis.agent.v1 import agent_service_pb2_grpc as pb_grpc
from aegis_agent.adapters import plugins
from aegis_agent.main import main
from aegis_agent.testing import tools
from aegis_common.errors import ConfigurationError
from aegis_common.pki import new_ed25519, public_key_pem
from aegis_common.rpc.channel import mesh_channel
from aegis_common.testing.pki import Mesh
from aegis_common.testing.ports import free_port
from aegis_common.testing.processes import is_alive


def environment(mesh: Mesh, folder: Path, port: int) -> dict[str, str]:
    trusted = folder / "trusted.pem"
    trusted.write_bytes(public_key_pem(new_ed25519(folder / "signing.key")))
    return {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        **mesh.service_env("AEGIS_AGENT_", "agent"),
        "AEGIS_AGENT_LISTEN": f"127.0.0.1:{port}",
        "AEGIS_AGENT_MODEL_STORE_URL": f"file://{folder / 'store'}",
        "AEGIS_AGENT_MODEL_TRUSTED_KEYS": f'["{trusted}"]',
        "AEGIS_AGENT_TOOLS": '["aegis_agent.testing.tools:spin", "aegis_agent.testing.tools:own_pid"]',
        "AEGIS_AGENT_DRAIN": "PT0.2S",
    }


@pytest.mark.parametrize(
    "how", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGKILL]
)
async def test_whatever_ends_the_agent_ends_its_children(
    tmp_path: Path, how: signal.Signals, wait_until: Callable[[Callable[[], bool]], Awaitable[None]]
) -> None:
    mesh, port, pid_file = Mesh(tmp_path), free_port(), tmp_path / "pid"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "aegis_agent.main", env=environment(mesh, tmp_path, port)
    )
    try:
        async with mesh_channel(f"127.0.0.1:{port}", service="agent", tls=mesh.tls("sdk")) as channel:
            stub = pb_grpc.AgentServiceStub(channel)
            await stub.ListTools(pb.ListToolsRequest(), wait_for_ready=True, timeout=60)
            request = pb.DispatchRequest(tool="tools/spin")
            request.payload.add(name="pid_file", text=str(pid_file))
            call = asyncio.ensure_future(stub.Dispatch(request, timeout=100))
            await wait_until(lambda: pid_file.exists() and bool(pid_file.read_text()))
            children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(how)
            await process.wait()
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

    assert int(pid_file.read_text()) in [child.pid for child in children]
    await wait_until(lambda: not any(map(is_alive, children)))
    assert process.returncode == (-how if how is signal.SIGKILL else 0)


def test_a_wrong_setting_ends_the_start_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in environment(Mesh(tmp_path), tmp_path, 0).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AEGIS_AGENT_MODEL_THREADS", "many")
    monkeypatch.setenv("AEGIS_AGENT_MODLE_STORE", "x")

    with pytest.raises(SystemExit) as caught:
        main()

    told = capsys.readouterr().err
    assert caught.value.code == 2
    assert "AEGIS_AGENT_MODEL_THREADS" in told
    assert "AEGIS_AGENT_MODLE_STORE: unknown setting" in told


def test_tools_of_the_settings_have_their_own_name_or_another() -> None:
    found = dict(plugins.named_tools(["aegis_agent.testing.tools:add", "plus=aegis_agent.testing.tools:add"]))

    assert found == {"add": tools.add, "plus": tools.add}


@pytest.mark.parametrize("name", ["nothing", "no.such.module:tool", "aegis_agent.testing.tools:nothing"])
def test_a_tool_that_cannot_be_imported_is_named(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        list(plugins.named_tools([name]))

    assert name in caught.value.message


def test_a_broken_plugin_does_not_hide_the_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    entries = EntryPoints(
        [
            EntryPoint("broken", "no.such.module:tool", plugins.GROUP),
            EntryPoint("double", "aegis_agent.testing.tools:double", plugins.GROUP),
        ]
    )
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries.select(group=group))

    assert list(plugins.installed_tools()) == [("double", tools.double)]
    assert "plugin cannot be loaded" in caplog.text
