"""Runs at a site: its policy, and the process that keeps to it."""
