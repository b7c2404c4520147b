"""Stored JSON records: each says its schema version, and readers refuse those they do not know."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from aegis_common.store.errors import RecordUnreadable


def read_record(
    data: bytes | str, *, key: str, known: Collection[int], fields: Collection[str]
) -> dict[str, Any]:
    """Parse the record at *key*, which has exactly *fields* and a schema version in *known*.

    Raises:
        RecordUnreadable: It is no JSON object, has other fields, or another schema version.
    """
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:  # the latter: brackets within brackets, thousands deep
        raise RecordUnreadable(f"record {key} is not JSON", key=key) from error
    if not isinstance(record, dict):
        raise RecordUnreadable(f"record {key} is not a JSON object", key=key)
    version = record.get("schema_version")
    if version not in known or isinstance(version, bool):
        raise RecordUnreadable(
            f"record {key} has schema version {version!r}; this reader knows {sorted(known)}",
            key=key,
            schema_version=str(version),
        )
    if set(record) != set(fields):
        odd = sorted(set(record) ^ set(fields))
        raise RecordUnreadable(f"record {key} has missing or unknown fields: {', '.join(odd)}", key=key)
    return record
