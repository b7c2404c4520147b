"""Commands of `aegis` that come with the coordinator; each module holds one Typer app."""
