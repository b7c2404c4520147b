"""A site's policy: what it allows, counted over runs and restarts, before a line of the app is read."""

from __future__ import annotations

import hashlib
import importlib
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from aegis_fl_coordinator.domain.privacy import gaussian_epsilon
from aegis_fl_coordinator.domain.site_policy import (
    Ask,
    InvalidSitePolicy,
    NoiseRule,
    SitePolicy,
    Spent,
    refusal,
)
from aegis_fl_coordinator.flower import supernode_environment
from aegis_fl_coordinator.inprocess.flower import identify
from aegis_fl_coordinator.site.clientapp import FLOWER_MODULE, Guard, SiteRefused, install, noisy
from aegis_fl_coordinator.site.policy_file import SPENT_FILE, SpentFile, read_policy


@pytest.fixture(autouse=True)
def _task() -> None:
    identify()


BUNDLE = b"an app"
DIGEST = hashlib.sha256(BUNDLE).hexdigest()
TRAIN = Ask(DIGEST, "r1", "train")
NOISE = SitePolicy(None, noise=NoiseRule(1.0, max_epsilon=9.0))


def asked(noise: float, kind: str = "train") -> Ask:
    return Ask(DIGEST, "r1", kind, noise)


@pytest.mark.parametrize(
    ("policy", "ask", "expected"),
    [
        (SitePolicy(None), TRAIN, ""),
        (SitePolicy(frozenset({DIGEST})), TRAIN, ""),
        (SitePolicy(frozenset({"0" * 64})), TRAIN, "is not among the site's apps"),
        (SitePolicy(frozenset()), TRAIN, "is not among the site's apps"),
        (SitePolicy(None, max_rounds=3), TRAIN, ""),
        (SitePolicy(None, max_rounds=2), TRAIN, "the run has had its 2 rounds here"),
        (SitePolicy(None, max_rounds=2), Ask(DIGEST, "r2", "train"), ""),
        (SitePolicy(None, max_rounds=2), Ask(DIGEST, "r1", "evaluate"), ""),
        (
            NOISE,
            TRAIN,
            "the run asks for no noise: give it local_noise with a noise multiplier of at",
        ),
        (NOISE, asked(0.9), "the noise multiplier 0.9 is below the site's 1"),
        (NOISE, asked(2.0, "evaluate"), "'evaluate' would be answered without noise"),
        (NOISE, asked(4.0), ""),
        (NOISE, asked(1.0), "the node has spent epsilon 7.8"),
    ],
)
def test_the_policy_decides(policy: SitePolicy, ask: Ask, expected: str) -> None:
    found = refusal(policy, ask, Spent({"r1": 2}, inverse_squares=2.7))

    assert bool(found) == bool(expected)
    assert expected in found


def test_noise_of_several_runs_adds_up_as_one_mechanism() -> None:
    spent = Spent()
    for ask in (asked(2.0), Ask(DIGEST, "r2", "train", 2.0), asked(2.0), asked(2.0), asked(9.0, "evaluate")):
        spent = spent.after(ask)

    assert spent.epsilon(1e-5) == pytest.approx(gaussian_epsilon(2.0, 4))
    assert spent.rounds == {"r1": 3, "r2": 1}


def test_a_policy_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "site-policy.yaml"
    file.write_text(
        f"schema_version: 1\napps: ['{DIGEST}']\nmax_rounds: 50\n"
        "privacy: {min_noise_multiplier: 2, max_epsilon: 8, delta: 0.000001}\n"
    )

    assert read_policy(file) == SitePolicy(frozenset({DIGEST}), 50, NoiseRule(2.0, 8.0, 1e-6))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "the policy is None; write keys and values"),
        ("schema_version: 2\napps: any", "schema_version is 2; this version knows 1"),
        ("schema_version: 1", "apps is None; write a list of SHA-256 digests, or any for every app"),
        ("schema_version: 1\napps: [abc]", "'abc' is no SHA-256 digest"),
        (
            "schema_version: 1\napps: any\nmax_round: 3",
            "the policy has the key 'max_round'; known are apps",
        ),
        (
            "schema_version: 1\napps: any\nmax_rounds: 0",
            "max_rounds is 0; write a whole number",
        ),
        ("schema_version: 1\napps: any\nprivacy: {max_epsilon: 3}", "privacy lacks min_noise_multiplier"),
        (
            "schema_version: 1\napps: any\nprivacy: {min_noise_multiplier: lots}",
            "write a number above 0",
        ),
        ("a: [", "cannot be read: line 1"),
    ],
)
def test_a_policy_that_is_none_is_refused_with_the_file_and_what_to_write(
    tmp_path: Path, text: str, fault: str
) -> None:
    file = tmp_path / "site-policy.yaml"
    file.write_text(text)

    with pytest.raises(InvalidSitePolicy) as error:
        read_policy(file)
    assert str(file) in error.value.message
    assert fault in error.value.message


def message(noise: float | None = None, kind: str = "train") -> Message:
    content = RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(1000))})})
    if noise is not None:
        record = ConfigRecord({"clipping-norm": 1.0, "noise-multiplier": noise})
        record["weight-key"] = "num-examples"
        content["aegis-local-noise"] = record
    return Message(content, 7, kind)


def guard_for(folder: Path, text: str) -> Guard:
    policy = folder / "site-policy.yaml"
    policy.write_text(f"schema_version: 1\n{text}")
    return Guard(policy, folder)


def test_rounds_are_counted_before_the_app_runs_and_over_restarts(tmp_path: Path) -> None:
    for _ in range(2):
        guard_for(tmp_path, "apps: any\nmax_rounds: 2").check(BUNDLE, message(), {"aegis-run": "r1"})
    with pytest.raises(SiteRefused, match="refused by the site's policy: the run has had its 2 rounds"):
        guard_for(tmp_path, "apps: any\nmax_rounds: 2").check(BUNDLE, message(), {"aegis-run": "r1"})

    with SpentFile(tmp_path).locked() as spent:
        assert spent.rounds == {"r1": 2}


@pytest.mark.parametrize("broken", ["site-policy.yaml", SPENT_FILE])
def test_what_cannot_be_read_allows_nothing(tmp_path: Path, broken: str) -> None:
    guard = guard_for(tmp_path, "apps: any")
    (tmp_path / broken).write_text("{")

    with pytest.raises(SiteRefused, match="the site's policy allows nothing: "):
        guard.check(BUNDLE, message(), {})


def plain_app(message: Message, context: Any) -> Message:
    """Answer as an app that knows of no noise."""
    arrays = ArrayRecord({"w": Array(np.full(1000, 5.0))})
    metrics = MetricRecord({"num-examples": 12, "train_loss": 0.3})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def test_the_site_adds_the_noise_whatever_the_app_does(tmp_path: Path) -> None:
    reply = noisy(plain_app)(message(2.0), None)

    sent = reply.content.array_records["arrays"]["w"].numpy()
    assert sent.std() == pytest.approx(4.0, rel=0.2)
    assert "aegis-local-noise" in reply.content.config_records
    assert "train_loss" not in next(iter(reply.content.metric_records.values()))
    assert noisy(plain_app)(message(), None).content.array_records["arrays"]["w"].numpy().std() == 0


def test_flowers_process_asks_the_guard_before_it_unpacks_or_loads_the_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_clientapp: Any = importlib.import_module(FLOWER_MODULE)
    done: list[str] = []
    context = Context(1, 7, {}, RecordDict(), {"aegis-run": "r1"})
    pulled = (message(), context, SimpleNamespace(), SimpleNamespace(content=BUNDLE))
    monkeypatch.setattr(run_clientapp, "pull_task_input", lambda client: pulled)
    monkeypatch.setattr(run_clientapp, "install_from_fab", lambda *_a, **_o: done.append("unpacked"))
    monkeypatch.setattr(run_clientapp, "get_load_client_app_fn", lambda **_o: lambda *_n: plain_app)

    install(guard_for(tmp_path, f"apps: ['{'0' * 64}']"))
    run_clientapp.pull_task_input(None)
    with pytest.raises(SiteRefused, match=f"the digest {DIGEST} of the app is not among the site's apps"):
        run_clientapp.install_from_fab(BUNDLE, skip_prompt=True)
    assert done == []
    guard_for(tmp_path, f"apps: ['{DIGEST}']")  # a change counts from the next message on
    run_clientapp.install_from_fab(BUNDLE, skip_prompt=True)

    assert done == ["unpacked"]


def test_a_node_with_a_policy_starts_the_process_that_keeps_it(tmp_path: Path) -> None:
    policy = tmp_path / "site-policy.yaml"
    policy.write_text("schema_version: 1\napps: any\n")
    environment = supernode_environment(home=tmp_path / "home", policy=policy)

    found = subprocess.run(
        ["/bin/sh", "-c", "command -v flwr-clientapp && flwr-clientapp --help"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )

    assert found.stdout.splitlines()[0] == str(tmp_path / "home" / "bin" / "flwr-clientapp")
    assert "Run a Flower ClientApp" in found.stdout


def test_a_node_does_not_start_with_a_policy_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidSitePolicy, match="cannot be read"):
        supernode_environment(home=tmp_path, policy=tmp_path / "missing.yaml")
