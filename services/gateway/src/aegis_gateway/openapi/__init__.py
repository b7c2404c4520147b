"""OpenAPI 3.1 from the descriptor set that also drives the stubs, the routes and the access rules."""

from __future__ import annotations

from aegis_gateway.openapi.document import openapi_document, openapi_json

__all__ = ["openapi_document", "openapi_json"]
