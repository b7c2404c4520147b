"""What tools and models are, and how a call of one runs; no transport, no storage."""
