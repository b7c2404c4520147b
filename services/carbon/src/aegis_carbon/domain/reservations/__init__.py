"""Reservations: a place in time for work that can wait, kept whatever the forecast or the provider does."""
