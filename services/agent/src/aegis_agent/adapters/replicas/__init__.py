"""Other agents of the same deployment: a roster in Redis, and reports of changes."""
