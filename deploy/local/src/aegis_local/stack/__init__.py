"""What `aegis up` starts, process by process."""
