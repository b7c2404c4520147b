"""The `aegis` command. Modules here import what is heavy inside functions, so that help is quick."""
