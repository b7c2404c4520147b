"""The demo and the quickstart: every line that they print is computed from what the stack answered."""
