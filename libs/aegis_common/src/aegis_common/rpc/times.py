"""Moments and spans of time as protobuf messages."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import overload

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp


@overload
def timestamp(moment: datetime) -> Timestamp: ...
@overload
def timestamp(moment: datetime | None) -> Timestamp | None: ...
def timestamp(moment: datetime | None) -> Timestamp | None:
    """Return *moment* as a message; None stays None, an unset field."""
    if moment is None:
        return None
    made = Timestamp()
    made.FromDatetime(moment)
    return made


def duration(span: timedelta) -> Duration:
    """Return *span* as a message."""
    made = Duration()
    made.FromTimedelta(span)
    return made
