"""gRPC plumbing: server and client wiring, interceptors, error mapping."""
