"""What touches Flower, SQLite, gRPC and files."""
