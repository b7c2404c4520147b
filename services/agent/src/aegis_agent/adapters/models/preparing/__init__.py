"""Inside children: what users send is parsed here, never in the agent's own process."""
