"""Tools from Python files: those of a folder, and those that are put through the service."""
