"""Every kind of error has one status, and a status carries everything its caller needs."""

from __future__ import annotations

from datetime import timedelta

import pytest
from google.rpc import error_details_pb2

from aegis_common.errors import RETRYABLE, AegisError, ErrorKind, InvalidArgument
from aegis_common.rpc.errors import CODES, DOMAIN, KINDS, from_status, to_status


def _error(kind: ErrorKind, **options: object) -> AegisError:
    class Sample(AegisError):
        reason = "SAMPLE"

    Sample.kind = kind
    return Sample("what is wrong", **options)  # type: ignore[arg-type]


def test_the_table_is_total_and_one_to_one() -> None:
    assert set(ErrorKind) == set(CODES)
    assert len(CODES) == len(KINDS)


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_every_status_has_error_info_and_only_retryable_ones_retry_info(kind: ErrorKind) -> None:
    status = to_status(_error(kind, zone="zones/x"))
    info = error_details_pb2.ErrorInfo()

    assert status.details[0].Unpack(info)
    assert ("SAMPLE", DOMAIN, {"zone": "zones/x"}) == (info.reason, info.domain, dict(info.metadata))
    assert (kind in RETRYABLE) == (from_status(status).retry_after is not None)


def test_a_status_comes_back_as_what_it_was() -> None:
    error = _error(ErrorKind.RESOURCE_EXHAUSTED, retry_after=timedelta(milliseconds=1500), tool="tools/a")

    details = from_status(to_status(error))

    assert ErrorKind.RESOURCE_EXHAUSTED == details.kind
    assert ("SAMPLE", "what is wrong", {"tool": "tools/a"}) == (
        details.reason,
        details.message,
        details.metadata,
    )
    assert timedelta(milliseconds=1500) == details.retry_after


def test_violations_travel_as_bad_request() -> None:
    details = from_status(to_status(InvalidArgument("bad", violations={"payload[0].text": "too long"})))

    assert {"payload[0].text": "too long"} == details.violations


def test_a_zero_retry_delay_is_not_taken_for_none() -> None:
    assert (
        timedelta(0)
        == from_status(to_status(_error(ErrorKind.UNAVAILABLE, retry_after=timedelta(0)))).retry_after
    )
