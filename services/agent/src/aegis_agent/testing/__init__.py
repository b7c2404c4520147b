"""What tests of the agent, and of what stands around it, need."""
