"""The whole of AEGIS on one machine: `aegis up`, the demo and the quickstart."""
