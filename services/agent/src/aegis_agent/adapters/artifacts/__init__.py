"""Artifacts over an object store, and their door."""
