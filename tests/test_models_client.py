"""Models of one's own through a real gateway: by the SDK, by plain HTTP, and by the command line."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from onnx import TensorProto, helper, numpy_helper

from aegis_client import AegisApiError, AlreadyExists, Client, FailedPrecondition, NotFound, UsageError
from aegis_common.pki import new_ed25519
from aegis_common.publisher_proof import proof_text
from aegis_common.signing import Signer
from aegis_common.store.bundle import pack
from aegis_common.store.manifest import Manifest, seal
from stack_support import Stack, run_aegis

ROWS = {"rows": [{"length": 1.0, "width": 2.0}]}
SPEC = """
schema_version: 1
task: tabular
preprocessing:
  tabular:
    features: [{name: length}, {name: width}]
examples:
  - input: {rows: [{length: 1, width: 0}]}
    output: {rows: [{values: [%s, 0]}]}
"""


def scaling(factor: float) -> bytes:
    """Return a model that multiplies two numbers by *factor*."""
    kind = TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Mul", ["input", "factor"], ["output"])],
        "scaling",
        [helper.make_tensor_value_info("input", kind, ["batch", 2])],
        [helper.make_tensor_value_info("output", kind, ["batch", 2])],
        [numpy_helper.from_array(np.array(factor, dtype=np.float32), "factor")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return bytes(model.SerializeToString())


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes the folder of a model that multiplies, and whose example promises so much."""

    def make(factor: float, *, promised: float | None = None) -> Path:
        made = tmp_path / f"times-{factor}"
        made.mkdir()
        (made / "model.onnx").write_bytes(scaling(factor))
        (made / "model.yaml").write_text(SPEC % (factor if promised is None else promised))
        return made

    return make


class BetweenUploadAndImport:
    """A transport that lets something happen when a model has been sent, before it is published."""

    def __init__(self, transport: Any, happen: Callable[[], object]) -> None:
        self._transport, self._happen = transport, happen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def call(self, operation: Any) -> Any:
        if operation.method.path.endswith("ImportModelVersion"):
            self._happen()
        return self._transport.call(operation)


def answer(client: Client, tool: str) -> Any:
    return client.tools.run(tool, ROWS).value["rows"][0]["values"]


def test_two_pushes_of_one_content_do_not_take_each_others_upload(
    stack: Stack, folder: Callable[..., Path], tmp_path: Path
) -> None:
    model, key = folder(7), tmp_path / "mine.key"
    with stack.client() as client, stack.client() as other:
        client.publisher_keys.enroll(key)
        models: Any = client.models
        models.transport = BetweenUploadAndImport(
            models.transport, lambda: other.models.push(model, "gate", key=key)
        )
        made = client.models.push(model, "fence", key=key)

        with pytest.raises(NotFound):
            client.artifacts.describe(made.sha256)
        for name in ("fence", "gate"):
            assert [item.sha256 for item in client.models.versions(name)] == [made.sha256]
            remove(client, name)


def test_a_model_is_pushed_called_replaced_rolled_back_fetched_and_removed(
    stack: Stack, folder: Callable[..., Path], tmp_path: Path
) -> None:
    double, triple, key = folder(2), folder(3), tmp_path / "mine.key"
    with stack.client() as client:
        with pytest.raises(UsageError, match="aegis models keys enroll"):
            client.models.push(double, "yard", key=key)
        enrolled = client.publisher_keys.enroll(key, description="of a test")
        first = client.models.push(double, "yard", key=key, aliases=["production"])
        assert (first.format, first.signer_key_id) == ("aegis-bundle", enrolled.key_id)
        assert answer(client, "yard") == [2, 4]

        second = client.models.push(triple, "yard", key=key, provenance={"from": "a test"})
        again = client.models.push(triple, "yard", key=key, provenance={"from": "a test"})
        assert again.name == second.name
        with pytest.raises(AlreadyExists):
            client.models.push(triple, "yard", key=key, provenance={"from": "elsewhere"})
        assert answer(client, "yard") == [2, 4]
        client.models.promote("yard", second.version)
        assert answer(client, "yard") == [3, 6]
        assert client.models.describe("yard", second.version).provenance == {"from": "a test"}

        place = client.models.pull("yard", "production", tmp_path / "copy")
        assert pack(place) == pack(triple)
        found = client.models.verify("yard", second.version)
        assert found, found.checks
        assert [check.kind for check in found.checks] == ["SIGNATURE", "DIGEST", "LOAD", "EXAMPLE"]

        back = client.models.rollback("yard", from_version=second.version)
        assert (back.from_version, back.to_version) == (second.version, first.version)
        assert answer(client, "yard") == [2, 4]
        with pytest.raises(FailedPrecondition) as used:
            client.models.delete("yard", first.version)
        assert used.value.reason == "MODEL_VERSION_IN_USE"

        remove(client, "yard")
        with pytest.raises(NotFound):
            client.tools.run("yard", ROWS)
        with pytest.raises(FailedPrecondition) as deleted:
            client.models.push(double, "yard", key=key)
        assert deleted.value.reason == "MODEL_VERSION_DELETED"


def remove(client: Client, model: str) -> None:
    for alias in client.models.get(model).aliases:
        client.models.delete_alias(model, alias)
    for version in client.models.versions(model):
        client.models.delete(model, version.version)


def test_a_model_that_does_not_keep_its_promise_is_never_served(
    stack: Stack, folder: Callable[..., Path], tmp_path: Path
) -> None:
    good, bad, key = folder(2), folder(3, promised=5), tmp_path / "mine.key"
    (tmp_path / "noise.onnx").write_bytes(b"no model at all")
    with stack.client() as client:
        client.publisher_keys.enroll(key)
        client.models.push(good, "shed", key=key, aliases=["production"])
        for source in (bad, tmp_path / "noise.onnx"):
            with pytest.raises(AegisApiError) as refused:
                client.models.push(source, "shed", key=key, aliases=["production"])
            assert refused.value.code in ("FAILED_PRECONDITION", "INVALID_ARGUMENT")

        assert answer(client, "shed") == [2, 4]
        remove(client, "shed")


def test_what_was_damaged_in_the_store_is_found_and_not_handed_out(stack: Stack, tmp_path: Path) -> None:
    key, source = tmp_path / "mine.key", tmp_path / "model.onnx"
    source.write_bytes(scaling(7))
    with stack.client() as client:
        client.publisher_keys.enroll(key)
        made = client.models.push(source, "pond", key=key, aliases=["canary"])
        with pytest.raises(NotFound):
            client.artifacts.describe(made.sha256)
        assert client.models.pull("pond", "canary", tmp_path / "copy.onnx").read_bytes() == scaling(7)

        [blob] = [
            path for path in (stack.state / "store").rglob(made.sha256) if "artifacts" not in path.parts
        ]
        data = blob.read_bytes()
        blob.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        found = client.models.verify("pond", made.version)
        with pytest.raises(AegisApiError):
            client.models.pull("pond", made.version, tmp_path / "damaged.onnx")
        blob.write_bytes(data)

        assert not found
        assert found.checks[-1].reason == "MODEL_DIGEST_MISMATCH"
        assert not (tmp_path / "damaged.onnx").exists()
        remove(client, "pond")


class Http:
    """Calls that have to work, with JSON in and out."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def __call__(self, verb: str, path: str, **body: Any) -> Any:
        answer = self._client.request(verb, path, json=body or None)
        assert answer.status_code == 200, answer.text
        return answer.json()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_everything_goes_by_plain_http(stack: Stack, tmp_path: Path) -> None:
    new_ed25519(tmp_path / "mine.key")
    signer = Signer.load(tmp_path / "mine.key")
    public = signer.public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    data = scaling(4)
    digest = hashlib.sha256(data).hexdigest()
    with stack.http(stack.token("operator", "trainer", sub="bob")) as client:
        call = Http(client)
        who = call("GET", "/v1/publisher")
        proof = signer.sign(proof_text(who["tenant"], who["subject"], public))
        key = call("POST", "/v1/publisherKeys", publicKey=b64(public), proof=proof)["publisherKey"]
        artifact = client.post("/v1/artifacts", content=data).json()["artifact"]["name"]
        manifest = Manifest(
            tenant=who["tenant"],
            model="lawn",
            version="1",
            sha256=digest,
            size_bytes=len(data),
            format="onnx",
            created_at=datetime.now(UTC),
            provenance={},
            signer_key_id=signer.key_id,
        )
        made = call(
            "POST",
            "/v1/models/lawn/versions:import",
            version="1",
            artifact=artifact,
            manifest=b64(seal(manifest, signer)),
            aliases=["production"],
        )["modelVersion"]
        ran = call("POST", "/v1/tools/lawn:dispatch", payload=[{"json": {"input": [[1, 2]]}}])
        got = client.get("/v1/models/lawn/versions/1:download")
        described = call("GET", "/v1/models/lawn/versions/1")
        checks = call("POST", "/v1/models/lawn/versions/1:verify")["checks"]
        none = client.post("/v1/models/lawn:rollbackAlias", json={"alias": "production"})
        call("POST", "/v1/models/lawn:deleteAlias", alias="production")
        call("DELETE", "/v1/models/lawn/versions/1")
        revoked = call("POST", f"/v1/{key['name']}:revoke")["publisherKey"]

    assert who == {"tenant": "default", "subject": "bob"}
    assert key["name"] == f"publisherKeys/{signer.key_id}"
    assert (made["name"], made["sha256"]) == ("models/lawn/versions/1", digest)
    assert ran["result"][0]["json"]["output"] == [[4, 8]]
    assert got.content == data
    assert base64.b64decode(described["manifest"]) == seal(manifest, signer)
    assert [check["passed"] for check in checks] == [True, True, True]
    assert (none.status_code, reason(none)) == (400, "NO_EARLIER_VERSION")
    assert revoked["state"] == "STATE_RETIRED"


def reason(answer: httpx.Response) -> Any:
    return answer.json()["details"][0]["reason"]


@pytest.mark.long
def test_the_command_line_does_all_of_it(stack: Stack, folder: Callable[..., Path], tmp_path: Path) -> None:
    double, triple = folder(2), folder(3)

    def aegis(*arguments: str | Path, code: int = 0, profile: str = "people") -> str:
        before = ("--profile-file", str(stack.state / "profiles.toml"), "--profile", profile)
        done = run_aegis(*before, *map(str, arguments))
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def run() -> Any:
        rows = f"rows={json.dumps(ROWS['rows'])}"
        ran = json.loads(aegis("tools", "run", "barn", "--arg", rows, "-o", "json"))
        return ran["parts"][0]["json"]["rows"][0]["values"]

    key = stack.state / "publisher-keys" / "people.key"
    key.unlink(missing_ok=True)  # of another test with this stack
    refused = aegis("models", "push", double, "--name", "barn", code=2)
    assert "aegis models keys enroll" in refused
    aegis("models", "keys", "enroll", "--description", "of a test")
    assert key.stat().st_mode & 0o777 == 0o600
    assert Signer.load(key).key_id in aegis("models", "keys", "list")
    # another profile is somebody else, with another key
    assert "admin.key" in aegis("models", "push", double, "--name", "barn", code=2, profile="admin")

    pushed = aegis("models", "push", double, "--name", "barn", "--version", "one", "--alias", "prod")
    assert "models/barn/versions/one\naliases  production" in pushed
    assert run() == [2, 4]
    aegis("models", "push", triple, "--name", "barn", "--version", "two")
    aegis("models", "promote", "barn", "two", "--alias", "prod")
    assert run() == [3, 6]
    assert re.search(r"signature\s+ok", aegis("models", "verify", "barn", "prod"))
    assert "barn" in aegis("models", "list")
    assert "production -> two" in aegis("models", "describe", "barn")
    aegis("models", "pull", "barn", "prod", tmp_path / "copy")
    assert pack(tmp_path / "copy") == pack(triple)
    assert "went back from two to one" in aegis("models", "rollback", "barn")
    assert run() == [2, 4]
    assert "MODEL_VERSION_IN_USE" in aegis("models", "rm", "barn", "one", code=1)
    aegis("models", "rm", "barn", "one", "two", "--alias", "prod")
    assert "UNKNOWN_TOOL" in aegis("tools", "describe", "barn", code=1)
    aegis("models", "keys", "revoke", Signer.load(key).key_id)
    assert "is retired" in aegis("models", "push", double, "--name", "barn", code=2)
    key.unlink()
