from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aegis_client import AsyncClient, Client, Profile, ProfileError, RetryPolicy, Unavailable
from aegis_common.testing.pki import Mesh

if TYPE_CHECKING:
    from libs.aegis_client.tests.conftest import Deployment

ONCE = RetryPolicy(attempts=1)


def test_a_caller_without_a_certificate_is_not_let_in(deployment: Deployment) -> None:
    with Client(deployment.profile(cert=None, key=None), retry=ONCE) as client, pytest.raises(Unavailable):
        client.carbon.check("GB")


def test_a_server_of_another_authority_is_not_trusted(deployment: Deployment, tmp_path: Path) -> None:
    other = Mesh(tmp_path / "other").tls("sdk").bundle

    with Client(deployment.profile(ca=other), retry=ONCE) as client, pytest.raises(Unavailable):
        client.carbon.check("GB")


def test_the_name_of_the_server_can_be_pinned(deployment: Deployment) -> None:
    with deployment.client(server_name="gateway.aegis.aegis.internal") as client:
        assert client.carbon.check("GB")
    wrong = deployment.profile(server_name="carbon.aegis.aegis.internal")
    with Client(wrong, retry=ONCE) as client, pytest.raises(Unavailable):
        client.carbon.check("GB")


def test_a_token_comes_from_its_file_as_it_is_now(deployment: Deployment, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    profile = Profile(address=f"localhost:{deployment.people}", ca=deployment.profile().ca, token_file=token)

    with Client(profile) as client:
        client.carbon.check("GB")
        token.write_text("second\n")
        client.carbon.check("GB")
        token.write_text("")
        with pytest.raises(ProfileError, match="empty"):
            client.carbon.check("GB")

    sent = [call["authorization"] for call in deployment.calls("CheckSchedule")]
    assert sent == ["Bearer first", "Bearer second"]


def test_without_a_token_no_authorization_is_sent(deployment: Deployment) -> None:
    with deployment.client() as client:
        client.carbon.check("GB")

    assert "authorization" not in deployment.calls("CheckSchedule")[0]


def test_a_new_certificate_is_used_without_a_new_client(deployment: Deployment, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    good = deployment.profile()
    stranger = Mesh(tmp_path / "other").tls("sdk")

    def place(cert: Path, key: Path) -> None:
        (folder / "cert").write_bytes(cert.read_bytes())
        (folder / "key").write_bytes(key.read_bytes())

    place(stranger.cert, stranger.key)
    with Client(deployment.profile(cert=folder / "cert", key=folder / "key"), retry=ONCE) as client:
        with pytest.raises(Unavailable):
            client.carbon.check("GB")
        assert good.cert is not None
        assert good.key is not None
        place(good.cert, good.key)
        assert client.carbon.check("GB")
        (folder / "cert").unlink()
        assert client.carbon.check("GB")


async def test_calls_under_way_end_well_when_the_certificate_changes(deployment: Deployment) -> None:
    async with AsyncClient(deployment.profile()) as client:
        pages = client.tools.list(page_size=2)
        first = await anext(pages)
        deployment.mesh.rotate("sdk")
        rest = [tool async for tool in pages]

    assert first.name == "tools/t0"
    assert len(rest) == 4


def test_an_open_stream_outlives_the_channel_that_replaces_its_own(deployment: Deployment) -> None:
    from aegis.fl.v1 import training_service_pb2 as fl

    run = deployment.training.run()
    deployment.training.scripts = [
        [
            fl.WatchTrainingRunResponse(resume_token="1", state_change=run),
            fl.WatchTrainingRunResponse(resume_token="2", end=run),
        ]
    ]
    with deployment.client() as client:
        events = client.training.watch("r1")
        next(events)
        deployment.mesh.rotate("sdk")
        client.carbon.check("GB")

        assert [event.kind for event in events] == ["end"]
    assert deployment.training.tokens == [""]


def test_one_client_serves_several_threads(deployment: Deployment) -> None:
    answers: list[bool] = []
    with deployment.client() as client:
        threads = [
            threading.Thread(target=lambda: answers.append(bool(client.carbon.check("GB")))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert answers == [True] * 8


def test_a_missing_certificate_file_is_named(deployment: Deployment, tmp_path: Path) -> None:
    with (
        Client(deployment.profile(cert=tmp_path / "none.crt")) as client,
        pytest.raises(ProfileError, match=r"cert .*none\.crt cannot be read: No such file"),
    ):
        client.carbon.check("GB")
