"""Between protobuf and the domain: what the servicers share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from aegis.carbon.v1 import carbon_service_pb2 as pb
from aegis_carbon.domain.intensity import Quality, Signal
from aegis_common.errors import InvalidArgument
from aegis_common.rpc.call import current_call

ZONES: Final = "zones/"
"""Before a zone id in a resource name."""
MARGIN: Final = 0.1
"""Share of the caller's time that is kept for the answer to travel."""
SIGNALS: Final = {Signal.AVERAGE: pb.SIGNAL_AVERAGE, Signal.MARGINAL: pb.SIGNAL_MARGINAL}
QUALITIES: Final = {
    Quality.ACTUAL: pb.QUALITY_ACTUAL,
    Quality.FORECAST: pb.QUALITY_FORECAST,
    Quality.STALE: pb.QUALITY_STALE,
    Quality.SYNTHETIC: pb.QUALITY_SYNTHETIC,
}


def time_to_work() -> float:
    """Return the seconds that a call can spend on its answer."""
    return current_call().time_remaining() * (1 - MARGIN)


def moment(found: Timestamp, field: str) -> datetime:
    """Return a time in UTC.

    Raises:
        InvalidArgument: It is none; *field* is named.
    """
    try:
        return found.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(
            f"{field} is no time between the years 1 and 9999", violations={field: str(error)}
        ) from error
