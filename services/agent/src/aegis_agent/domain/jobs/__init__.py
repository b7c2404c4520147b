"""Durable jobs: what they are and how they go from state to state; no store, no transport."""
