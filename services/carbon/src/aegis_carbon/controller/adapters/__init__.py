"""The API of Kubernetes, and the carbon service."""
