"""Changes through the gateway are in force on both replicas when the answer comes, or it says where not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from aegis_agent.adapters.oip import messages
from aegis_client import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from aegis_client.profiles import write_profiles
from replica_load import MODEL, publish_colours, serves
from replica_support import GUARD_S, Agent, Replicas, until

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

ROW = {"input": [[0, 1, 0, 0]]}
TYPES = messages.method_types()


def greeting(folder: Path, word: str) -> Path:
    file = folder / "greetings.py"
    file.write_text(f"from aegis_agent import tool\n\n\n@tool()\ndef greet() -> str:\n    return {word!r}\n")
    return file


def said(replicas: Replicas, tool: str, arguments: dict[str, Any] | None = None) -> list[Any]:
    """Return what each replica answers, or how it refuses."""
    return [_said(replicas, agent, tool, arguments or {}) for agent in replicas.agents]


def _said(replicas: Replicas, agent: Agent, tool: str, arguments: dict[str, Any]) -> Any:
    with replicas.client(agent) as client:
        try:
            return client.tools.run(tool, arguments).value
        except (FailedPrecondition, NotFound) as error:
            return error.reason


def states(replicas: tuple[Any, ...]) -> dict[str, str]:
    return {item.replica: item.state for item in replicas}


def test_an_alias_serves_at_both_when_the_answer_comes(replicas: Replicas) -> None:
    publish_colours(replicas, "v8")
    publish_colours(replicas, "v9")
    with replicas.client() as client:
        for version in ("v8", "v9") * 3:
            model = client.models.promote(MODEL, version)
            assert states(model.replicas) == {"first": "LIVE", "second": "LIVE"}
            assert all(serves(replicas, agent, version) for agent in replicas.agents)


def test_a_tool_is_added_replaced_and_removed_on_both_through_the_gateway(
    replicas: Replicas, tmp_path: Path
) -> None:
    with replicas.client() as client:
        added = client.tools.put_file(greeting(tmp_path, "hello"))
        first = said(replicas, "greet")
        client.tools.put_file(greeting(tmp_path, "good evening"))
        second = said(replicas, "greet")
        broken = tmp_path / "broken.py"
        broken.write_text("x = 1\nraise ValueError('no')\n")
        with pytest.raises(InvalidArgument, match="line 2"):
            client.tools.put_file(broken)
        removed = client.tools.remove_file("greetings")
        third = said(replicas, "greet")
    with replicas.client(account="sdk") as anybody, pytest.raises(PermissionDenied):
        anybody.tools.put_file(greeting(tmp_path, "mine"))

    assert states(added.replicas) == states(removed) == {"first": "LIVE", "second": "LIVE"}
    assert (first, second, third) == (["hello"] * 2, ["good evening"] * 2, ["UNKNOWN_TOOL"] * 2)


def test_the_command_adds_a_tool_and_says_that_it_is_live_on_both(replicas: Replicas, tmp_path: Path) -> None:
    profiles = tmp_path / "profiles.toml"
    with replicas.client() as client:
        write_profiles(profiles, {"admin": client.profile}, default="admin")
    program = "import sys; from aegis_client.cli.app import run; sys.exit(run(sys.argv[1:]))"

    def aegis(*arguments: str) -> str:
        command = [sys.executable, "-c", program, "--profile-file", str(profiles), "tools", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=GUARD_S, check=True)
        return done.stdout

    assert aegis("add", str(greeting(tmp_path, "hello"))) == "greetings: greet\nlive on all 2 agents\n"
    assert "greetings" in aegis("files")
    assert aegis("remove", "greetings") == "greetings is removed\nlive on all 2 agents\n"


def test_a_replica_that_is_dead_is_no_longer_waited_for_and_follows_when_it_is_back(
    replicas: Replicas, tmp_path: Path
) -> None:
    victim, other = replicas.agents
    with replicas.client(other) as client:
        with replicas.without(victim):
            added = client.tools.put_file(greeting(tmp_path, "hello"))
            replaced = client.tools.put_file(greeting(tmp_path, "hello again"))
        until(lambda: said(replicas, "greet") == ["hello again"] * 2, "it has followed")
        client.tools.remove_file("greetings")

    assert states(added.replicas) == states(replaced.replicas) == {other.name: "LIVE"}


def test_a_model_is_unloaded_and_loaded_on_both(replicas: Replicas) -> None:
    with replicas.channel() as channel:
        call(channel, "RepositoryModelUnload")
        unloaded = said(replicas, MODEL, ROW)
        call(channel, "RepositoryModelLoad")
        loaded = said(replicas, MODEL, ROW)

    assert unloaded == ["MODEL_UNLOADED"] * 2
    assert "MODEL_UNLOADED" not in loaded


def call(channel: grpc.Channel, method: str) -> None:
    request, answer = TYPES[method]
    rpc = channel.unary_unary(
        f"/{messages.SERVICE}/{method}",
        request_serializer=request.SerializeToString,
        response_deserializer=answer.FromString,
    )
    rpc(request(model_name=MODEL), timeout=GUARD_S)
