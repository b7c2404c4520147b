"""Tools of workers elsewhere, which dial in."""
