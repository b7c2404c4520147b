"""What connects the domain to protobuf, child processes, JSON Schema and the model store."""
