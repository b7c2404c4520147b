"""Commands of `aegis` that come with the agent; each module holds one Typer app."""
