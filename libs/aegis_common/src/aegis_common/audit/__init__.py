"""The audit log: one hash chain per process instance, sealed by signed checkpoints."""
