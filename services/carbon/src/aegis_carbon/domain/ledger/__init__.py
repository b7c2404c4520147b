"""What work used, what that emitted, and what waiting saved."""
