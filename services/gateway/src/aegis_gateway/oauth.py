"""How a client without credentials learns where to get a token: RFC 9728, as MCP hosts use it."""

from __future__ import annotations

import json
from typing import Final

from aegis_gateway.settings import GatewaySettings

MCP_PATH: Final = "/mcp"
PROTECTED_RESOURCE: Final = f"/.well-known/oauth-protected-resource{MCP_PATH}"


def protected_resource(settings: GatewaySettings) -> str:
    """Return the metadata of the MCP endpoint as a protected resource, JSON."""
    metadata = {
        "resource": settings.public_url.rstrip("/") + MCP_PATH,
        "resource_name": "AEGIS",
        "authorization_servers": [settings.token.issuer],
        "bearer_methods_supported": ["header"],
    }
    if settings.mcp_scopes:
        metadata["scopes_supported"] = list(settings.mcp_scopes)
    return json.dumps(metadata, separators=(",", ":"))


def challenge(value: str, public_url: str) -> str:
    """Return a `www-authenticate` value that also says where the metadata is."""
    separator = ", " if "=" in value else " "
    return f'{value}{separator}resource_metadata="{public_url.rstrip("/")}{PROTECTED_RESOURCE}"'
