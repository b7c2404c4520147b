"""What the tests run against: real servers and processes, and an engine that does as it is told."""
