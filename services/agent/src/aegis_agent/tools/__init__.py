"""The built-in tools; each is an ordinary function with type hints."""
