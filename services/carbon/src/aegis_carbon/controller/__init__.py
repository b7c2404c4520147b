"""The Kubernetes controller: it suspends annotated Jobs until power is clean, and is never late."""
