"""Durable jobs: the Redis store, the runner that works them off, and what keeps house."""
