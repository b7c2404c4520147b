"""Artifacts through the real gateway: raw bytes in bounded memory, and nothing left of what broke."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from artifact_doors import AGENT_MAX, GATEWAY_MAX, GUARD_S, MIB, Doors, pieces, until

LARGE = 512 * MIB


@pytest.fixture
def http(doors: Doors) -> Iterator[httpx.Client]:
    with doors.client() as client:
        yield client


def upload(client: httpx.Client, content: Any, **headers: str) -> httpx.Response:
    return client.post("/v1/artifacts", content=content, headers=headers)


def test_a_body_becomes_an_artifact_of_its_media_type(http: httpx.Client) -> None:
    data = b"\x89PNG\r\n\x1a\n" + os.urandom(300)
    digest = hashlib.sha256(data).hexdigest()
    answer = http.post(
        "/v1/artifacts",
        params={"filename": "cat.png", "retention": "3600s", "sha256": digest},
        content=data,
        headers={"content-type": "image/png"},
    )

    artifact = answer.json()["artifact"]
    assert 200 == answer.status_code, answer.text
    assert f"artifacts/{digest}" == artifact["name"]
    assert ("image/png", "cat.png", "308") == (
        artifact["mediaType"],
        artifact["filename"],
        artifact["sizeBytes"],
    )
    got = http.get(f"/v1/{artifact['name']}:download")
    assert (data, "image/png") == (got.content, got.headers["content-type"])
    assert ("attachment", "nosniff") == (
        got.headers["content-disposition"],
        got.headers["x-content-type-options"],
    )
    rest = http.get(f"/v1/{artifact['name']}:download", params={"offset": 100, "limit": 50})
    assert data[100:150] == rest.content
    assert artifact == http.get(f"/v1/{artifact['name']}").json()["artifact"]
    assert [artifact] == http.get("/v1/artifacts", params={"mediaType": "image/*"}).json()["artifacts"]
    assert 200 == http.delete(f"/v1/{artifact['name']}").status_code
    assert 404 == http.get(f"/v1/{artifact['name']}:download").status_code


def test_an_empty_body_is_an_empty_artifact(http: httpx.Client) -> None:
    artifact = upload(http, b"").json()["artifact"]

    assert f"artifacts/{hashlib.sha256(b'').hexdigest()}" == artifact["name"]
    assert b"" == http.get(f"/v1/{artifact['name']}:download").content


def test_large_content_passes_both_ways_while_gateway_and_agent_stay_small(
    doors: Doors, http: httpx.Client
) -> None:
    processes = (psutil.Process(doors.gateway.pid), psutil.Process(doors.agent.pid))
    pass_through(http, 64 * MIB, processes)  # from now on each has its code, threads and buffers
    before = [process.memory_info().rss for process in processes]
    most = pass_through(http, LARGE, processes)

    # A tenth of it would already do for whatever windows and parts are on their way.
    assert LARGE // 5 > most[0] - before[0]
    assert LARGE // 5 > most[1] - before[1]


def pass_through(http: httpx.Client, size: int, processes: Sequence[psutil.Process]) -> list[int]:
    """Upload and download *size* bytes; return the most memory that each process had meanwhile."""
    most = [0] * len(processes)
    digests = [hashlib.sha256(), hashlib.sha256()]

    def look(number: int, piece: bytes) -> bytes:
        digests[number].update(piece)
        most[:] = [max(a, b.memory_info().rss) for a, b in zip(most, processes, strict=True)]
        return piece

    name = upload(http, (look(0, piece) for piece in pieces(size))).json()["artifact"]["name"]
    with http.stream("GET", f"/v1/{name}:download") as answer:
        for piece in answer.iter_bytes(MIB):
            look(1, piece)
    assert [name] * 2 == [f"artifacts/{digest.hexdigest()}" for digest in digests]
    assert 200 == http.delete(f"/v1/{name}").status_code
    return most


def test_an_interrupted_upload_leaves_nothing(doors: Doors, http: httpx.Client) -> None:
    before = doors.kept()
    with connection(doors) as line:
        line.sendall(upload_head(doors, f"content-length: {64 * MIB}"))
        for piece in pieces(16 * MIB):
            line.sendall(piece)
        until(lambda: open_uploads(doors) == 1)

    until(lambda: open_uploads(doors) == 0)
    assert before == doors.kept()
    assert [] == list(doors.spool.iterdir())


@contextmanager
def connection(doors: Doors) -> Iterator[ssl.SSLSocket]:
    host, _, port = doors.gateway.settings.people_listen.rpartition(":")
    context = ssl.create_default_context(cafile=str(doors.mesh.tls("gateway").bundle))
    with (
        socket.create_connection((host, int(port)), GUARD_S) as plain,
        context.wrap_socket(plain, server_hostname=host) as line,
    ):
        yield line


def upload_head(doors: Doors, header: str) -> bytes:
    address = doors.gateway.settings.people_listen
    token = doors.mesh.token()
    lines = ("POST /v1/artifacts HTTP/1.1", f"host: {address}", f"authorization: Bearer {token}", header)
    return "\r\n".join((*lines, "", "")).encode()


def open_uploads(doors: Doors) -> int:
    """Return how many files without a name the agent holds in the spool folder."""
    links = Path(f"/proc/{doors.agent.pid}/fd")
    found = 0
    for link in links.iterdir():
        try:
            found += str(link.readlink()).startswith(str(doors.spool))
        except FileNotFoundError:  # closed meanwhile
            continue
    return found


def test_an_agent_killed_during_an_upload_leaves_nothing(doors: Doors) -> None:
    before = doors.kept()

    def sent() -> Iterator[bytes]:
        for number, piece in enumerate(pieces(64 * MIB)):
            if number == 16:
                until(lambda: open_uploads(doors) == 1)
                doors.agent.send_signal(signal.SIGKILL)
                doors.agent.wait()
            yield piece

    with doors.client() as client:
        try:
            status = upload(client, sent()).status_code
        except httpx.TransportError:  # the gateway's answer came while we still sent
            status = 503
    doors.start_agent()

    assert 503 == status
    assert before == doors.kept()
    assert [] == list(doors.spool.iterdir())


def test_a_body_over_the_gateways_limit_is_413(doors: Doors, http: httpx.Client) -> None:
    before = doors.kept()
    said = answer_to(doors, f"content-length: {GATEWAY_MAX + 1}")
    counted = upload(http, pieces(GATEWAY_MAX + 9 * MIB))

    assert "HTTP/1.1 413 Payload Too Large" == said
    assert (413, 8) == (counted.status_code, counted.json()["code"])
    until(lambda: open_uploads(doors) == 0)
    assert before == doors.kept()


def answer_to(doors: Doors, header: str) -> str:
    """Return the status line of the answer to a POST whose body never comes."""
    with connection(doors) as line:
        line.sendall(upload_head(doors, header))
        return line.recv(4096).split(b"\r\n", 1)[0].decode()


def test_a_body_over_the_agents_limit_is_refused_with_a_reason(http: httpx.Client) -> None:
    answer = http.post("/v1/artifacts", params={"sizeBytes": AGENT_MAX + 1}, content=b"x")

    assert (400, "ARTIFACT_TOO_LARGE") == (answer.status_code, answer.json()["details"][0]["reason"])


def test_an_upload_is_refused_while_its_body_is_still_coming(doors: Doors, http: httpx.Client) -> None:
    before = doors.kept()
    answer = upload(http, pieces(32 * MIB), **{"content-type": "image/png"})

    assert (400, "MEDIA_TYPE_MISMATCH") == (answer.status_code, answer.json()["details"][0]["reason"])
    assert before == doors.kept()


def test_a_form_is_415_and_any_other_media_type_is_content(http: httpx.Client) -> None:
    form = http.post("/v1/artifacts", files={"file": bytes(3 * MIB)})
    json_body = upload(http, b'{"a": 1}', **{"content-type": "application/json"})
    elsewhere = http.post(
        "/v1/tools/echo:dispatch", content=b"<a/>", headers={"content-type": "application/xml"}
    )

    assert (415, "send the content itself, not a form: curl --data-binary @FILE") == (
        form.status_code,
        form.json()["message"],
    )
    assert "application/json" == json_body.json()["artifact"]["mediaType"]
    assert (415, "the body must be JSON: send content-type application/json") == (
        elsewhere.status_code,
        elsewhere.json()["message"],
    )


def test_content_that_is_not_what_was_said_is_refused(http: httpx.Client) -> None:
    answer = upload(http, b"%PDF-1.7 ...", **{"content-type": "image/png"})

    assert (400, "MEDIA_TYPE_MISMATCH") == (answer.status_code, answer.json()["details"][0]["reason"])
    assert {"declared": "image/png", "detected": "application/pdf"} == answer.json()["details"][0]["metadata"]


def test_roles_and_tenants_are_kept_apart(doors: Doors, http: httpx.Client) -> None:
    name = upload(http, b"mine").json()["artifact"]["name"]
    with doors.client(tenant="blue") as blue, doors.client(roles=["viewer"]) as viewer:
        assert 404 == blue.get(f"/v1/{name}:download").status_code
        assert 404 == blue.delete(f"/v1/{name}").status_code
        assert b"mine" == viewer.get(f"/v1/{name}:download").content
        assert 403 == upload(viewer, b"mine").status_code
        assert 403 == viewer.delete(f"/v1/{name}").status_code


def test_the_gateways_own_description_covers_raw_bodies(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    post = paths["/v1/artifacts"]["post"]
    download = paths["/v1/artifacts/{artifact}:download"]["get"]

    assert ["*/*"] == list(post["requestBody"]["content"])
    assert ["*/*"] == list(download["responses"]["200"]["content"])
    query = {item["name"] for item in post["parameters"] if item.get("in") == "query"}
    assert {"mediaType", "filename", "retention", "sha256", "sizeBytes", "existing", "holder"} == query
