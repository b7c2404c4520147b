"""Real servers and throw-away certificates for tests."""
