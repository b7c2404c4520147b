from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import structlog

from aegis_common.errors import InvalidArgument
from aegis_common.logs import drop_secrets, setup_logging
from aegis_common.telemetry import setup_telemetry


class Lines(io.StringIO):
    def all(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]

    def only(self) -> dict[str, object]:
        (line,) = self.all()
        return line


@pytest.fixture
def lines() -> Iterator[Lines]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = Lines()
    setup_logging("carbon", "INFO", stream=stream)
    yield stream
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level = handlers, level


def test_a_line_says_when_who_and_what(lines: Lines) -> None:
    structlog.get_logger("aegis.test").info("window planned", zone="DE", grams=12.5)
    line = lines.only()
    age = datetime.now(UTC) - datetime.fromisoformat(str(line.pop("time")))

    assert abs(age.total_seconds()) < 60
    assert line == {
        "level": "info",
        "service": "carbon",
        "event": "window planned",
        "logger": "aegis.test",
        "zone": "DE",
        "grams": 12.5,
    }


def test_stdlib_logging_goes_the_same_way(lines: Lines) -> None:
    logging.getLogger("aegis.test").warning("lost %d of %s", 2, "ten", extra={"zone": "DE", "token": "t"})
    line = lines.only()

    assert (line["event"], line["level"], line["service"]) == ("lost 2 of ten", "warning", "carbon")
    assert (line["logger"], line["zone"], line.get("token")) == ("aegis.test", "DE", None)


def test_python_warnings_are_log_lines(lines: Lines) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)  # another test's logging may have it on, for another writer
        logging.captureWarnings(capture=True)
        warnings.warn("old", UserWarning, stacklevel=1)

    assert (lines.only()["logger"], lines.only()["level"]) == ("py.warnings", "warning")


def test_lines_within_a_span_carry_its_ids(lines: Lines) -> None:
    telemetry = setup_telemetry("carbon")
    with telemetry.server_span("/x/Y") as span:
        structlog.get_logger().info("inside")
        logging.getLogger().info("inside too")
    structlog.get_logger().info("outside")
    telemetry.shutdown()

    first, second, last = lines.all()
    for line in (first, second):
        assert (line["trace_id"], line["span_id"]) == (span.trace_id, span.span_id)
    assert "trace_id" not in last


def test_a_bound_tenant_is_on_each_line(lines: Lines) -> None:
    with structlog.contextvars.bound_contextvars(tenant="acme"):
        structlog.get_logger().info("one")
        logging.getLogger().info("two")

    assert [line["tenant"] for line in lines.all()] == ["acme", "acme"]


def test_a_known_error_has_its_reason_but_no_traceback(lines: Lines) -> None:
    for logger in (structlog.get_logger(), logging.getLogger()):
        try:
            raise InvalidArgument("zone XX is unknown", zone="XX") from OSError("disk\nDebug source: {}")
        except InvalidArgument:
            logger.exception("refused")

    for line in lines.all():
        assert (line["error_reason"], line["error_message"]) == ("INVALID_ARGUMENT", "zone XX is unknown")
        assert line["error_cause"] == "OSError: disk"
        assert "exception" not in line
    assert "Traceback" not in lines.getvalue()


def test_an_unforeseen_error_has_its_traceback(lines: Lines) -> None:
    for logger in (structlog.get_logger(), logging.getLogger()):
        try:
            raise ValueError("boom")
        except ValueError:
            logger.exception("failed")

    assert ["ValueError: boom" in str(line["exception"]) for line in lines.all()] == [True, True]


@pytest.mark.parametrize(
    "key",
    ["authorization", "Authorization", "token", "access_token", "x-api-key", "API_KEY", "password", "cookie"],
)
def test_secrets_are_dropped_by_name_at_any_depth(lines: Lines, key: str) -> None:
    structlog.get_logger().info("x", **{key: "s3cret"}, metadata={"a": [{key: "s3cret", "b": 1}]})

    assert "s3cret" not in lines.getvalue()
    assert lines.only()["metadata"] == {"a": [{"b": 1}]}


def test_credentials_within_texts_are_masked(lines: Lines) -> None:
    structlog.get_logger().info("header was Bearer eyJhbGciOi.J9.abc-_ here", note=["Basic dXNlcjpwdw=="])

    assert lines.only()["event"] == "header was Bearer [removed] here"
    assert lines.only()["note"] == ["Basic [removed]"]


def test_names_that_only_contain_such_words_stay() -> None:
    event = {"key_id": "k", "tokens_used": 3, "passwordless": True}

    assert drop_secrets(None, "", dict(event)) == event


def test_a_line_is_json_whatever_a_number_is(lines: Lines) -> None:
    structlog.get_logger().info("x", loss=float("nan"), bounds=[float("-inf"), 1.5])

    assert "NaN" not in lines.getvalue()
    assert (lines.only()["loss"], lines.only()["bounds"]) == ("nan", ["-inf", 1.5])


def test_a_message_of_stdlib_logging_may_be_anything(lines: Lines) -> None:
    logging.getLogger().info({"level": "x"})

    assert (lines.only()["event"], lines.only()["level"]) == ("{'level': 'x'}", "info")


def test_values_that_are_no_json_are_shown_and_deep_ones_cut(lines: Lines) -> None:
    deep: dict[str, object] = {}
    deep["again"] = deep
    structlog.get_logger().info("x", value=datetime(2026, 1, 1, tzinfo=UTC), deep=deep)

    assert str(lines.only()["value"]).startswith("datetime.datetime(2026, 1, 1")
    assert "[too deep]" in lines.getvalue()


def test_the_level_is_kept_and_a_second_set_up_replaces_the_first(lines: Lines) -> None:
    other = Lines()
    setup_logging("agent", "WARNING", stream=other)
    structlog.get_logger().info("quiet")
    logging.getLogger("x").info("quiet")
    structlog.get_logger().warning("loud")

    assert (other.only()["event"], other.only()["service"]) == ("loud", "agent")
    assert lines.getvalue() == ""
