"""The page about the controller: its manifests fit what it asks for, its tables what there is."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml

from aegis_carbon.controller.adapters.client import KubeClient
from aegis_carbon.controller.adapters.jobs import KubeJobs
from aegis_carbon.controller.adapters.leases import KubeLease
from aegis_carbon.controller.adapters.objects import job_of
from aegis_carbon.controller.adapters.reflector import Reflector
from aegis_carbon.controller.domain import notes
from aegis_carbon.controller.domain.election import Lease
from aegis_carbon.controller.domain.job import JobStore
from aegis_carbon.controller.domain.ports import Change, Changed, Note
from aegis_carbon.controller.settings import ControllerSettings
from aegis_carbon.domain.job_wish import WISHES
from aegis_carbon.testing.clock import ManualClock
from aegis_carbon.testing.kube_api import KubeApi
from aegis_carbon.testing.kube_cluster import Request

PAGE: Final = Path(__file__).parents[3] / "docs" / "carbon-controller.md"
_PATH: Final = re.compile(r"/(?:api/v1|apis/([^/]+)/v1)(?:/namespaces/[^/]+)?/([a-z]+)(?:/([^/]+))?")
_VERBS: Final = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch"}

Grant = tuple[str, str, str]


@pytest.fixture(scope="module")
def text() -> str:
    return PAGE.read_text()


@pytest.fixture(scope="module")
def manifests(text: str) -> list[dict[str, Any]]:
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    return [item for block in blocks for item in yaml.safe_load_all(block) if item["kind"] != "Job"]


def granted(manifests: list[dict[str, Any]]) -> set[Grant]:
    return {
        (group, resource, verb)
        for item in manifests
        for rule in item.get("rules", ())
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def asked(request: Request) -> Grant:
    match = _PATH.fullmatch(request.path)
    assert match is not None
    group, resource, name = match.groups()
    verb = _VERBS[request.method]
    if verb == "get" and name is None:
        verb = "watch" if request.query.get("watch") else "list"
    return group or "", resource, verb


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with KubeApi.serving() as server:
        yield server


async def test_its_role_allows_what_it_does_and_no_more(
    manifests: list[dict[str, Any]], api: KubeApi, clock: ManualClock, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    uid = api.create_job("a", {"aegis.dev/duration": "1h"})
    async with httpx.AsyncClient(trust_env=False) as http:
        client = KubeClient(api.url, token, http)
        jobs = KubeJobs(client, instance="pod", clock=clock)
        lease = KubeLease(client, namespace="aegis", name="aegis-carbon-controller")
        await lease.read()
        written = await lease.write(Lease("me", clock() - clock(), clock(), clock()))
        await lease.write(written)
        seen = await jobs.read("default", "a", uid)
        assert seen is not None
        await jobs.change(seen, Change(suspend=True, record=None))
        with suppress(Changed):
            await jobs.change(seen, Change(suspend=False, record=None))
        for _ in range(2):
            await jobs.tell(job_of(api.job("a")), Note("Suspended", "It pauses."))

        async def enough(_: float) -> None:
            raise StopAsyncIteration

        api.refuse = lambda request: 500 if request.query.get("watch") else None
        with suppress(StopAsyncIteration, RuntimeError):
            await Reflector(client, "", JobStore([""]), sleep=enough).run()

    assert granted(manifests) == {asked(request) for request in api.requests}


def test_the_deployment_sets_what_can_be_set(manifests: list[dict[str, Any]]) -> None:
    (deployment,) = (item for item in manifests if item["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    values = {
        entry["name"].removeprefix("AEGIS_CONTROLLER_").lower(): entry["value"] for entry in container["env"]
    }
    tls = {name.removeprefix("tls__"): value for name, value in values.items() if name.startswith("tls__")}
    plain = {name: value for name, value in values.items() if "__" not in name}

    found = ControllerSettings(**{**plain, "namespaces": yaml.safe_load(plain["namespaces"]), "tls": tls})

    assert ("carbon.aegis.svc:9443", {"*": "default"}) == (found.carbon, found.namespaces)
    accounts = {item["metadata"]["name"] for item in manifests if item["kind"] == "ServiceAccount"}
    subjects = {who["name"] for item in manifests for who in item.get("subjects", ())}
    assert accounts == subjects == {deployment["spec"]["template"]["spec"]["serviceAccountName"]}


def test_every_annotation_setting_and_event_has_its_words(text: str) -> None:
    reasons = set(re.findall(r'"([A-Z][A-Za-z]+)"', inspect.getsource(notes)))
    settings = {name.upper() for name in ControllerSettings.model_fields} - {
        "TLS",
        "KUBERNETES_HOST",
        "KUBERNETES_PORT",
    }

    assert set() == {name for name in reasons | settings | WISHES if f"`{name}`" not in text}
