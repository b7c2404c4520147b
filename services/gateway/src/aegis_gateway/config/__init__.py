"""Envoy's configuration: the YAML beside this file, and what turns it into a running gateway."""

from __future__ import annotations

from aegis_gateway.envoy import envoy_command
from aegis_gateway.render import render
from aegis_gateway.settings import GatewaySettings
from aegis_gateway.validate import validate

__all__ = ["GatewaySettings", "envoy_command", "render", "validate"]
