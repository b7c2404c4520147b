"""The agent's second listener: HTTP over mutual TLS, for MCP and the REST form of the inference protocol."""
