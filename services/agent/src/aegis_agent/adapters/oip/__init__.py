"""The Open Inference Protocol, over gRPC and over HTTP: translation to and from raw tensors."""
