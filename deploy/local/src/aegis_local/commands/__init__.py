"""Commands of `aegis` that run the stack on this machine; each module holds one Typer app."""
