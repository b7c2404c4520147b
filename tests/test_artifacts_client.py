"""Artifacts through the SDK and the command line, against a real gateway."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from aegis_client import (
    AsyncClient,
    Client,
    DataLoss,
    InvalidArgument,
    NotFound,
    Part,
    RetryPolicy,
    Unavailable,
    UsageError,
)
from artifact_doors import AGENT_MAX, MIB, Doors
from stack_support import AEGIS

PNG = b"\x89PNG\r\n\x1a\n" + bytes(600)
QUICK = RetryPolicy(first_delay_s=0.01, max_delay_s=0.05)


def options(doors: Doors, port: int | None = None) -> dict[str, object]:
    host, _, own = doors.gateway.settings.people_listen.rpartition(":")
    return {
        "address": f"{host}:{port or own}",
        "ca": doors.mesh.tls("gateway").bundle,
        "token": doors.mesh.token(),
        "retry": QUICK,
    }


@pytest.fixture
def client(doors: Doors) -> Iterator[Client]:
    with Client(**options(doors)) as made:  # type: ignore[arg-type]
        yield made


class Breaker:
    """Passes a TCP connection on, and breaks it after so many bytes of one direction; then lets all pass.

    Attributes:
        port: Where it listens.
        breaks: How many connections it broke.
        down: Bytes that came back through it.
        up: Bytes that were sent through it.
    """

    def __init__(self, target: tuple[str, int], *, up: int | None = None, down: int | None = None) -> None:
        self._target = target
        self._limits = {"up": up, "down": down}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.breaks = 0
        self.up = 0
        self.down = 0
        self._exits = ExitStack()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            for sock in (near, far):
                self._exits.callback(sock.close)
            for pair in (("up", near, far), ("down", far, near)):
                threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, way: str, source: socket.socket, sink: socket.socket) -> None:
        passed = 0
        try:
            while data := source.recv(64 << 10):
                passed += len(data)
                setattr(self, way, getattr(self, way) + len(data))
                limit = self._limits[way]
                if limit is not None and passed > limit:
                    self._limits[way] = None
                    self.breaks += 1
                    break
                sink.sendall(data)
        except OSError:
            pass
        for sock in (source, sink):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def close(self) -> None:
        self._listener.close()
        self._exits.close()


@contextmanager
def breaker(doors: Doors, **limits: int) -> Iterator[Breaker]:
    host, _, port = doors.gateway.settings.people_listen.rpartition(":")
    made = Breaker((host, int(port)), **limits)
    try:
        yield made
    finally:
        made.close()


def test_what_is_put_is_got(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "cat.png"
    file.write_bytes(PNG)
    kept = client.artifacts.put(file, retention=3600)

    assert (kept.name, kept.media_type, kept.filename) == (
        f"artifacts/{hashlib.sha256(PNG).hexdigest()}",
        "image/png",
        "cat.png",
    )
    assert client.artifacts.get(kept.name) == PNG
    (tmp_path / "copies").mkdir()
    assert client.artifacts.get(kept.sha256, tmp_path / "copies") == tmp_path / "copies" / "cat.png"
    with pytest.raises(UsageError, match="is there already"):
        client.artifacts.get(kept.sha256, tmp_path)
    assert client.artifacts.describe(kept.name) == kept
    assert b"".join(client.artifacts.stream(kept.name, offset=8)) == PNG[8:]
    assert kept in list(client.artifacts.list(media_type="image/*", page_size=1))
    assert client.artifacts.put(b"").size_bytes == 0
    assert client.artifacts.get(hashlib.sha256(b"").hexdigest()) == b""


def test_bytes_files_and_streams_can_be_put(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "notes.csv"
    file.write_bytes(b"a,b\n1,2\n")
    by_path = client.artifacts.put(str(file))
    with file.open("rb") as opened:
        opened.seek(4)
        by_file = client.artifacts.put(opened)
    read, write = os.pipe()
    os.write(write, b"from a pipe")
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        by_pipe = client.artifacts.put(pipe, filename="pipe.txt")

    assert (by_path.media_type, by_path.filename) == ("text/csv", "notes.csv")
    assert client.artifacts.get(by_file.name) == b"1,2\n"
    assert (client.artifacts.get(by_pipe.name), by_pipe.media_type) == (b"from a pipe", "text/plain")
    with pytest.raises(UsageError, match="not bytes"):
        client.artifacts.put(io.StringIO("text"))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="cannot be read"):
        client.artifacts.put(tmp_path / "none")


def test_progress_is_told_both_ways(client: Client) -> None:
    sent: list[tuple[int, int | None]] = []
    got: list[tuple[int, int | None]] = []
    data = os.urandom(3 * MIB)
    kept = client.artifacts.put(data, progress=lambda *now: sent.append(now))
    client.artifacts.get(kept.name, progress=lambda *now: got.append(now))

    for told in (sent, got):
        assert told[-1] == (len(data), len(data))
        assert len(told) > 3
        assert told == sorted(told)


def test_what_the_service_has_is_not_sent_again(doors: Doors) -> None:
    data = os.urandom(4 * MIB)
    with breaker(doors) as line, Client(**options(doors, line.port)) as client:  # type: ignore[arg-type]
        first = client.artifacts.put(data, retention=60)
        sent = line.up
        again = client.artifacts.put(data, retention=7200)

        assert sent > len(data)
        assert line.up - sent < 100_000
    assert again.expire_time is not None
    assert first.expire_time is not None
    assert (again.expire_time - first.expire_time).total_seconds() > 7000


def test_a_broken_upload_is_sent_again(doors: Doors) -> None:
    data = os.urandom(6 * MIB)
    with breaker(doors, up=3 * MIB) as line, Client(**options(doors, line.port)) as client:  # type: ignore[arg-type]
        kept = client.artifacts.put(data)

        assert line.breaks == 1
        assert client.artifacts.get(kept.name) == data


def test_a_broken_download_goes_on_where_it_was(doors: Doors, client: Client) -> None:
    data = os.urandom(12 * MIB)
    kept = client.artifacts.put(data)
    with breaker(doors, down=7 * MIB) as line, Client(**options(doors, line.port)) as other:  # type: ignore[arg-type]
        assert other.artifacts.get(kept.name) == data
        assert line.breaks == 1
        assert line.down < 1.6 * len(data)


def test_a_download_to_a_file_that_was_stopped_goes_on_the_next_time(
    doors: Doors, client: Client, tmp_path: Path
) -> None:
    data = os.urandom(8 * MIB)
    kept = client.artifacts.put(data)
    place = tmp_path / "out.bin"

    def stop(done: int, _: int | None) -> None:
        if done > 5 * MIB:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.artifacts.get(kept.name, place, progress=stop)
    assert not place.exists()
    with breaker(doors) as line, Client(**options(doors, line.port)) as other:  # type: ignore[arg-type]
        assert other.artifacts.get(kept.name, place) == place
        assert line.down < 4 * MIB
    assert place.read_bytes() == data
    assert [place] == list(tmp_path.iterdir())


def test_damage_is_found_and_not_kept(client: Client, tmp_path: Path) -> None:
    kept = client.artifacts.put(os.urandom(1000))
    part = tmp_path / f"out.{kept.sha256[:16]}.part"
    part.write_bytes(b"not the beginning")

    with pytest.raises(DataLoss):
        client.artifacts.get(kept.name, tmp_path / "out")
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../../etc/passwd", ".bashrc", "..", "a/b\x1b[2J.txt"])
def test_a_name_that_somebody_chose_leads_nowhere_else(client: Client, tmp_path: Path, name: str) -> None:
    kept = client.artifacts.put(name.encode(), filename=name)
    place = client.artifacts.get(kept.name, tmp_path)

    assert place.parent == tmp_path
    assert not place.name.startswith(".")
    assert place.read_bytes() == name.encode()


def test_two_downloads_do_not_write_to_one_file(client: Client, tmp_path: Path) -> None:
    kept = client.artifacts.put(os.urandom(2 * MIB))

    def again(done: int, _: int | None) -> None:
        with pytest.raises(UsageError, match="another process"):
            client.artifacts.get(kept.name, tmp_path / "out")

    client.artifacts.get(kept.name, tmp_path / "out", progress=again)
    assert [tmp_path / "out"] == list(tmp_path.iterdir())


def test_refusals_have_their_reasons(client: Client) -> None:
    with pytest.raises(NotFound) as unknown:
        client.artifacts.get("0" * 64)
    with pytest.raises(InvalidArgument) as wrong:
        client.artifacts.put(b"%PDF-1.7", media_type="image/png")

    assert (unknown.value.reason, wrong.value.reason) == ("UNKNOWN_ARTIFACT", "MEDIA_TYPE_MISMATCH")


def test_what_cannot_be_read_twice_is_not_sent_twice(doors: Doors) -> None:
    read, write = os.pipe()
    threading.Thread(target=fill, args=(write, os.urandom(MIB))).start()
    with (
        breaker(doors, up=MIB // 2) as line,
        Client(**options(doors, line.port)) as client,  # type: ignore[arg-type]
        os.fdopen(read, "rb") as pipe,
        pytest.raises(Unavailable),
    ):
        client.artifacts.put(pipe)


def fill(pipe: int, data: bytes) -> None:
    with os.fdopen(pipe, "wb") as file, contextlib.suppress(BrokenPipeError):
        file.write(data)


async def test_the_async_client_does_the_same(doors: Doors, tmp_path: Path) -> None:
    data = os.urandom(2 * MIB)
    with breaker(doors, up=MIB) as line:
        async with AsyncClient(**options(doors, line.port)) as client:  # type: ignore[arg-type]
            kept = await client.artifacts.put(data)
            again = await client.artifacts.put(data)

            assert line.breaks == 1
            assert again.name == kept.name
            assert await client.artifacts.get(kept.name) == data
            assert await client.artifacts.get(kept.name, tmp_path / "out") == tmp_path / "out"
            assert (
                b"".join([piece async for piece in client.artifacts.stream(kept.name, offset=7)]) == data[7:]
            )
            with pytest.raises(UsageError):
                await client.artifacts.put(tmp_path / "none")
            await client.artifacts.delete(kept.name)
            with pytest.raises(NotFound):
                await client.artifacts.describe(kept.name)
    assert (tmp_path / "out").read_bytes() == data


def test_a_tool_gets_an_artifact_by_a_part(client: Client) -> None:
    kept = client.artifacts.put(PNG, filename="cat.png")
    result = client.tools.run("describe_artifact", parts=[Part(artifact=kept.name)])

    assert result.value["filename"] == "cat.png"


def aegis(
    doors: Doors, folder: Path, *arguments: str, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    profile = folder / "profiles.toml"
    settings = options(doors)
    lines = [
        'default = "test"',
        "[profiles.test]",
        *(f'{k} = "{settings[k]}"' for k in ("address", "ca", "token")),
    ]
    profile.write_text("\n".join(lines))
    command = [str(AEGIS), "--profile-file", str(profile), *arguments]
    return subprocess.run(command, capture_output=True, input=stdin, timeout=60, check=False, cwd=folder)


def test_the_command_line_keeps_lists_fetches_and_removes(doors: Doors, tmp_path: Path) -> None:
    data = PNG + os.urandom(8)
    (tmp_path / "cat.png").write_bytes(data)
    put = aegis(doors, tmp_path, "artifacts", "put", "cat.png", "--retention", "2h")
    name = put.stdout.decode().strip()
    listed = json.loads(
        aegis(doors, tmp_path, "artifacts", "ls", "--media-type", "image/*", "-o", "json").stdout
    )
    described = aegis(doors, tmp_path, "artifacts", "describe", name).stdout.decode()
    got = aegis(doors, tmp_path, "artifacts", "get", name, "copy.png")
    piped = aegis(doors, tmp_path, "artifacts", "get", name, "-")
    from_stdin = aegis(doors, tmp_path, "artifacts", "put", "-", stdin=b"typed")
    removed = aegis(doors, tmp_path, "artifacts", "rm", name)
    gone = aegis(doors, tmp_path, "artifacts", "get", name)

    assert 0 == put.returncode, put.stderr
    assert f"artifacts/{hashlib.sha256(data).hexdigest()}" == name
    assert name in [item["name"] for item in listed]
    assert "image/png" in described
    assert b"copy.png\n" == got.stdout
    assert data == (tmp_path / "copy.png").read_bytes() == piped.stdout
    assert f"artifacts/{hashlib.sha256(b'typed').hexdigest()}\n" == from_stdin.stdout.decode()
    assert 0 == removed.returncode
    assert (1, True) == (gone.returncode, b"UNKNOWN_ARTIFACT" in gone.stderr)


def test_the_command_line_sends_a_large_file_as_an_artifact(doors: Doors, tmp_path: Path) -> None:
    data = PNG + bytes(20 * MIB)
    (tmp_path / "big.png").write_bytes(data)
    ran = aegis(
        doors, tmp_path, "tools", "run", "describe_artifact", "--file", "document=big.png", "-o", "json"
    )

    assert 0 == ran.returncode, ran.stderr
    told = json.loads(ran.stdout)["parts"][0]["json"]
    assert {
        "name": f"artifacts/{hashlib.sha256(data).hexdigest()}",
        "media_type": "image/png",
        "size_bytes": len(data),
        "filename": "big.png",
    } == told
    assert len(data) < AGENT_MAX
