"""The gateway: stock Envoy, configured by files that come from the descriptor set."""
