"""The learning effect of federated runs, measured: `make bench-fl`."""
