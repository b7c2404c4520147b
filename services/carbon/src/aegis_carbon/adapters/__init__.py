"""Where the carbon domain meets gRPC, Redis, HTTP and files."""
