"""Settings are refused by name, and the original variables still work."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic_settings import SettingsConfigDict

from aegis_common.errors import ConfigurationError
from aegis_common.settings import ServiceSettings, load


class Sample(ServiceSettings):
    model_config = SettingsConfigDict(
        env_prefix="AEGIS_SAMPLE_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    limit: int = 3
    names: tuple[str, ...] = ()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in ("TLS__CERT", "TLS__KEY", "TLS__BUNDLE", "IDENTITIES", "AUDIT_DIR", "AUDIT_KEY"):
        monkeypatch.setenv(f"AEGIS_SAMPLE_{name}", str(tmp_path / name))
    return monkeypatch


def test_nested_settings_are_read(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("AEGIS_SAMPLE_TOKEN__AUDIENCE", "other")
    settings = load(Sample)

    assert (tmp_path / "TLS__CERT", "other") == (settings.tls.cert, settings.token.audience)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AEGIS_SAMPLE_LIMIT", "many"),
        ("AEGIS_SAMPLE_LIMITS", "3"),
        ("AEGIS_SAMPLE_TLS__CERTT", "x"),
        ("LOG_LEVEL", "LOUD"),
    ],
)
def test_a_bad_or_unknown_setting_is_refused_by_name(
    environment: pytest.MonkeyPatch, name: str, value: str
) -> None:
    environment.setenv(name, value)

    with pytest.raises(ConfigurationError, match=name):
        load(Sample)


def test_a_missing_setting_is_named(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("AEGIS_SAMPLE_AUDIT_KEY")

    with pytest.raises(ConfigurationError, match="AEGIS_SAMPLE_AUDIT_KEY"):
        load(Sample)


@pytest.mark.parametrize(("variable", "field"), [("LOG_LEVEL", "log_level"), ("OIDC_ISSUER", "oidc_issuer")])
def test_the_original_variables_work(environment: pytest.MonkeyPatch, variable: str, field: str) -> None:
    environment.setenv(variable, "DEBUG")

    assert "DEBUG" == getattr(load(Sample), field)


def test_the_prefixed_variable_wins_over_the_original(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("LOG_LEVEL", "DEBUG")
    environment.setenv("AEGIS_SAMPLE_LOG_LEVEL", "ERROR")

    assert "ERROR" == load(Sample).log_level


@pytest.mark.parametrize(("value", "seconds"), [("10", 10), ("0.5", 0.5), ("PT2M", 120)])
def test_a_time_is_seconds_or_iso_8601(environment: pytest.MonkeyPatch, value: str, seconds: float) -> None:
    environment.setenv("AEGIS_SAMPLE_DRAIN", value)

    assert seconds == load(Sample).drain.total_seconds()


def test_a_list_that_is_no_json_is_refused_by_name(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("AEGIS_SAMPLE_NAMES", "a, b")

    with pytest.raises(ConfigurationError, match=r"names.*JSON"):
        load(Sample)


def test_settings_are_frozen(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(Sample).limit = 4  # type: ignore[misc]
