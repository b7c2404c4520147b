"""Envoy's configuration: rendered strictly, and accepted by Envoy itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from aegis_common.errors import ConfigurationError
from aegis_common.testing.pki import Mesh
from aegis_fl_coordinator.envoy import Identity, envoy_command, render, write_edge_config, write_site_config


def identity(mesh: Mesh, account: str) -> Identity:
    tls = mesh.tls(account)
    return Identity(tls.cert, tls.key, tls.bundle)


def edge(mesh: Mesh, folder: Path, listen: str = "127.0.0.1:18080") -> Path:
    return write_edge_config(
        folder,
        listen=listen,
        own=identity(mesh, "fl-edge"),
        client_spiffe_id=mesh.spiffe_id("gateway"),
        superlink_port=18000,
        superlink_ca=mesh.ca.bundle,
        superlink_spiffe_id=mesh.spiffe_id("fl-superlink"),
    )


def site(mesh: Mesh, folder: Path, gateway: str = "127.0.0.1:18443") -> Path:
    own = identity(mesh, "fl-node-site-1")
    return write_site_config(
        folder,
        port=18090,
        loopback_cert=own.cert,
        loopback_key=own.key,
        own=own,
        gateway=gateway,
        gateway_name="gateway.aegis.aegis.internal",
        gateway_spiffe_id=mesh.spiffe_id("gateway"),
    )


@pytest.mark.parametrize("write", [edge, site])
def test_envoy_accepts_the_configuration(write: object, mesh: Mesh, tmp_path: Path) -> None:
    assert callable(write)
    config = write(mesh, tmp_path / "envoy")

    command = [*envoy_command(config), "--mode", "validate"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stderr if done.returncode else "") == (0, "")


def test_the_edge_lets_in_one_name_only(mesh: Mesh, tmp_path: Path) -> None:
    edge(mesh, tmp_path)

    secret = yaml.safe_load((tmp_path / "client.trust.yaml").read_text())["resources"][0]

    assert secret["validation_context"]["match_typed_subject_alt_names"] == [
        {"san_type": "URI", "matcher": {"exact": mesh.spiffe_id("gateway")}}
    ]


@pytest.mark.parametrize("write", [edge, site])
def test_only_the_fleet_path_goes_on(write: object, mesh: Mesh, tmp_path: Path) -> None:
    assert callable(write)
    config = yaml.safe_load(write(mesh, tmp_path).read_text())

    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]
    assert [(r["match"], r.get("direct_response")) for r in routes] == [
        ({"prefix": "/v1/fleet/"}, None),
        ({"prefix": "/"}, {"status": 403}),
    ]
    assert "admin" not in config


@pytest.mark.parametrize(
    ("gateway", "kind"), [("127.0.0.1:1", "STATIC"), ("gateway.example.org:443", "STRICT_DNS")]
)
def test_a_gateway_may_be_named_or_numbered(gateway: str, kind: str, mesh: Mesh, tmp_path: Path) -> None:
    config = yaml.safe_load(site(mesh, tmp_path, gateway).read_text())

    assert config["static_resources"]["clusters"][0]["type"] == kind


@pytest.mark.parametrize("address", ["", "8080", ":8080", "host:", "host:99999", "host:x"])
def test_a_bad_address_is_refused(address: str, mesh: Mesh, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not host:port"):
        edge(mesh, tmp_path, address)


@pytest.mark.parametrize("value", ['a"b', "a\nb", "a b", "{}", ""])
def test_what_yaml_could_misread_is_refused_by_name(value: str) -> None:
    with pytest.raises(ConfigurationError, match="PORT is"):
        render("port: ${PORT}", {"PORT": value})


@pytest.mark.parametrize("values", [{}, {"PORT": "1", "HOST": "h"}])
def test_a_value_too_few_or_too_many_is_refused(values: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="do not agree on"):
        render("port: ${PORT}", values)
