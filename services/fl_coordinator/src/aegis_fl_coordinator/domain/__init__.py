"""What a federated run is and how it moves on; no transport, no storage."""
