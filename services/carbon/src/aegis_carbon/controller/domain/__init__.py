"""What is done with a Job, and when; no transport, no wire format."""
