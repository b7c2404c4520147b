"""Child processes that run tools and can be killed at any moment."""
