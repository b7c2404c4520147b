"""MCP over streamable HTTP: the same tools, through the same core, by the official SDK's low-level server."""
