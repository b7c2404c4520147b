"""A site's policy and what its node has spent, in files of the site."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from aegis_common.store.yaml_text import YamlFault, read_yaml
from aegis_fl_coordinator.domain.errors import UnknownSchema
from aegis_fl_coordinator.domain.site_policy import InvalidSitePolicy, SitePolicy, Spent, policy_from
from aegis_fl_coordinator.runfile import write_private

SCHEMA_VERSION: Final = 1
SPENT_FILE: Final = "site-spent.json"
_MAX_BYTES: Final = 100_000
_LOCK_FILE: Final = "site-spent.lock"


def read_policy(path: Path) -> SitePolicy:
    """Read `site-policy.yaml`.

    Raises:
        InvalidSitePolicy: It cannot be read, or is none; the message names the file.
    """
    try:
        return policy_from(read_yaml(path.read_bytes(), max_bytes=_MAX_BYTES))
    except (OSError, YamlFault) as error:
        raise InvalidSitePolicy(f"{path} cannot be read: {error}") from error
    except InvalidSitePolicy as error:
        raise InvalidSitePolicy(f"{path}: {error.message}") from error


class SpentFile:
    """What a node has spent, kept in *folder*; several processes may use it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def locked(self) -> Iterator[Spent]:
        """Yield what was spent, while nobody else writes.

        Raises:
            UnknownSchema: The file is of a schema version that this reader does not know, or broken.
        """
        with (self._folder / _LOCK_FILE).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self._read()

    def write(self, spent: Spent) -> None:
        """Keep *spent*; durable when this returns."""
        record = {
            "schema_version": SCHEMA_VERSION,
            "rounds": dict(spent.rounds),
            "inverse_squares": spent.inverse_squares,
        }
        write_private(self._folder / SPENT_FILE, json.dumps(record, indent=1).encode())

    def _read(self) -> Spent:
        path = self._folder / SPENT_FILE
        try:
            record = json.loads(path.read_bytes())
            spent = Spent(
                {str(run): int(count) for run, count in record["rounds"].items()},
                float(record["inverse_squares"]),
            )
            version = record["schema_version"]
        except FileNotFoundError:
            return Spent()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnknownSchema(
                f"{path} cannot be read, so what the node has spent is not known: {error!r}"
            ) from error
        if version != SCHEMA_VERSION:
            raise UnknownSchema(
                f"{path} has schema version {version}; this reader knows {SCHEMA_VERSION}",
                schema_version=str(version),
            )
        return spent
