"""The object store and what lies in it: signed models and their aliases."""
