"""What carbon-aware placement saves on a measured year: `make bench-carbon SERIES=file.csv`."""
