"""Federated training on handwritten digits."""
