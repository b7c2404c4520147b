"""What the kernel refuses a child, and what becomes of processes that a tool starts."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from aegis_agent.adapters.children.fork_server import ForkServer
from aegis_agent.adapters.children.pool import WorkerPool
from aegis_agent.adapters.children.probe import probe
from aegis_agent.adapters.children.sandbox import Confinement
from aegis_agent.adapters.children.setup import WorkerLimits, WorkerSetup
from aegis_agent.domain.call import NOBODY, Call
from aegis_agent.domain.errors import ToolFailed
from aegis_agent.domain.exceeded import ToolLeftProcesses

pytestmark = pytest.mark.asyncio(loop_scope="module")

MakePool = Callable[..., WorkerPool]
WaitUntil = Callable[[Callable[[], bool]], Awaitable[None]]
GUARD_S = 60


async def run(pool: WorkerPool, **arguments: Any) -> Any:
    call = Call(arguments=arguments, caller=NOBODY, deadline=asyncio.get_running_loop().time() + GUARD_S)
    async with asyncio.timeout_at(call.deadline):
        return await pool.run(call)


@pytest.fixture(scope="module")
def holds() -> Confinement:
    return probe()


@pytest.fixture
def needs_filter(holds: Confinement) -> None:
    if not holds.processes:
        pytest.skip("this kernel offers no seccomp filter")


async def test_the_trial_says_the_same_as_the_kernel(holds: Confinement) -> None:
    """Linux has offered filters to everybody since 3.5; the kernel's own word is in /proc."""
    offered = "\nSeccomp:" in Path("/proc/self/status").read_text()

    assert holds.processes == offered
    assert holds.network or not offered


@pytest.mark.usefixtures("needs_filter")
@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("hostile:fork", {}),
        ("hostile:run_program", {}),
        ("hostile:become", {"program": "/bin/true"}),
        ("hostile:signal_parent", {}),
        ("hostile:connect", {"port": 9}),
        ("hostile:local_socket", {"path": "/run/any.sock"}),
    ],
)
async def test_what_no_tool_needs_is_refused_and_the_error_says_how_to_allow_it(
    make_pool: MakePool, tool: str, arguments: dict[str, Any]
) -> None:
    pool = make_pool(tool)

    with pytest.raises(ToolFailed) as caught:
        await run(pool, **arguments)

    assert caught.value.metadata["error"] == "PermissionError"
    assert "may_fork=True" in caught.value.message
    assert "network=True" in caught.value.message


async def test_threads_are_allowed(make_pool: MakePool) -> None:
    assert await run(make_pool("hostile:run_thread")) == "ran"


async def test_a_tool_may_be_allowed_to_start_programs_and_still_has_no_network(make_pool: MakePool) -> None:
    limits = WorkerLimits(may_fork=True)

    assert await run(make_pool("hostile:run_program", limits)) == "ran"
    with pytest.raises(ToolFailed):
        await run(make_pool("hostile:connect", limits), port=9)


@pytest.mark.usefixtures("needs_filter")
async def test_a_tool_may_be_allowed_the_network_and_still_starts_no_programs(make_pool: MakePool) -> None:
    limits = WorkerLimits(network=True)

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await run(make_pool("hostile:connect", limits), port=port) == "hello"
    with pytest.raises(ToolFailed):
        await run(make_pool("hostile:run_program", limits))


async def test_children_gain_no_privileges_and_write_no_core(make_pool: MakePool) -> None:
    assert await run(make_pool("hostile:own_limits")) == [0, 1]


@pytest.mark.parametrize("how", ["group", "session", "orphan"])
async def test_processes_that_a_call_leaves_are_killed_and_are_its_error(
    make_pool: MakePool, tmp_path: Path, is_alive: Callable[[int], bool], wait_until: WaitUntil, how: str
) -> None:
    pool = make_pool("hostile:leave_process", WorkerLimits(may_fork=True))
    pid_file = tmp_path / "pid"

    with pytest.raises(ToolLeftProcesses) as caught:
        await run(pool, pid_file=str(pid_file), how=how)

    pid = int(pid_file.read_text())
    await wait_until(lambda: not is_alive(pid))
    assert caught.value.metadata == {"tool": "t", "limit": "0", "measured": "1", "unit": "processes"}
    assert "python" in caught.value.message


async def test_a_process_that_hides_from_its_child_is_found_all_the_same(
    make_pool: MakePool, tmp_path: Path, is_alive: Callable[[int], bool], wait_until: WaitUntil
) -> None:
    pool = make_pool("hostile:leave_orphan_unseen", WorkerLimits(may_fork=True))
    pid_file = tmp_path / "pid"

    await run(pool, pid_file=str(pid_file))

    pid = int(pid_file.read_text())
    await wait_until(lambda: not is_alive(pid))


async def test_what_the_warm_up_started_stays_as_long_as_the_child(
    make_pool: MakePool, is_alive: Callable[[int], bool], wait_until: WaitUntil
) -> None:
    pool = make_pool("hostile:helper_pid", WorkerLimits(may_fork=True), warm_up="hostile:start_helper")

    pids = [await run(pool) for _ in range(3)]

    assert len(set(pids)) == 1
    assert is_alive(pids[0])
    await pool.close()
    await wait_until(lambda: not is_alive(pids[0]))


async def test_no_secret_of_the_agent_can_be_read_in_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AEGIS_AGENT_AUDIT_KEY", "MY_API_KEY", "DB_PASSWORD", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.setenv(name, "a-secret")
    monkeypatch.setenv("HARMLESS", "kept")
    server = ForkServer()
    pool = WorkerPool("t", server, WorkerSetup(target="aegis_agent.testing.hostile:environment"), size=1)
    try:
        seen = await run(pool)
    finally:
        await pool.close()
        await server.close()

    assert [item for item in seen if "a-secret" in item] == []
    assert "HARMLESS=kept" in seen


async def test_a_killed_agent_takes_its_children_and_theirs_along(
    tmp_path: Path, is_alive: Callable[[int], bool], wait_until: WaitUntil
) -> None:
    """The agent here is a process of its own, so that it can be killed."""
    pid_file = tmp_path / "pids"
    code = (
        "import asyncio\n"
        "from aegis_agent import AgentManager, WorkerLimits\n"
        "from aegis_agent.testing import tools\n"
        "async def main():\n"
        "    async with AgentManager() as manager:\n"
        "        limits = WorkerLimits(may_fork=True)\n"
        "        manager.register_tool('t', tools.spin_with_descendants, limits=limits)\n"
        f"        await manager.dispatch('t', {{'pid_file': {str(pid_file)!r}}})\n"
        "asyncio.run(main())\n"
    )
    agent = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    await wait_until(pid_file.exists)
    agent.kill()
    await agent.wait()

    pids = [int(pid) for pid in pid_file.read_text().split()]
    assert len(pids) == 3
    await wait_until(lambda: not any(map(is_alive, pids)))


_WITHOUT_FILTERS = """
import asyncio, ctypes, errno, json, sys
from aegis_agent import AgentManager
from aegis_agent.adapters.children import sandbox
from aegis_agent.adapters.children.probe import probe
from aegis_agent.testing import hostile
from aegis_common.errors import AegisError

async def outcome(manager, name, **arguments):
    try:
        return await manager.dispatch(name, arguments)
    except AegisError as error:
        return [error.reason, error.metadata.get("error") or error.metadata.get("measured")]

async def main():
    async with AgentManager() as manager:
        for name in ("fork", "leave_process", "connect"):
            manager.register_tool(name, getattr(hostile, name))
        return [
            await outcome(manager, "fork"),
            await outcome(manager, "leave_process", pid_file=sys.argv[1], how="orphan"),
            await outcome(manager, "connect", port=9),
        ]

if __name__ == "__main__":
    prctl = 157 if sandbox.platform.machine() == "x86_64" else 167
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)
    refuse = [(0x20, 0, 0, 0), (0x15, 0, 3, prctl), (0x20, 0, 0, 16), (0x15, 0, 1, 22),
              (0x06, 0, 0, 0x50000 | errno.EINVAL), (0x06, 0, 0, 0x7FFF0000)]
    assert sandbox._install(libc, refuse)
    holds = probe()
    print(json.dumps([holds.processes, holds.network, asyncio.run(main())]))
"""


@pytest.mark.usefixtures("needs_filter")
async def test_without_filters_processes_are_found_and_killed_and_the_network_is_another(
    tmp_path: Path, is_alive: Callable[[int], bool], wait_until: WaitUntil
) -> None:
    """Runs in a process that is itself forbidden to install filters, as on a kernel without them."""
    script, pid_file = tmp_path / "script.py", tmp_path / "pid"
    script.write_text(_WITHOUT_FILTERS)

    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(pid_file), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    processes, network, outcomes = json.loads(output)

    pid = int(pid_file.read_text())
    assert not processes
    assert outcomes[:2] == [1, ["TOOL_LEFT_PROCESSES", "1"]]
    await wait_until(lambda: not is_alive(pid))
    if network:  # else neither root nor user namespaces are to be had
        assert outcomes[2] == ["TOOL_FAILED", "OSError"]


async def test_a_child_is_a_group_of_its_own_without_the_agents_descriptors(make_pool: MakePool) -> None:
    with socket.socket() as ours:
        os.set_inheritable(ours.fileno(), True)
        pid = await run(make_pool("tools:own_pid"))

        links = {link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir()}
        inode = f"socket:[{os.fstat(ours.fileno()).st_ino}]"

    assert os.getpgid(pid) == os.getsid(pid) == pid
    assert inode not in links
