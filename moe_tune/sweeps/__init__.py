"""Sweeps: the YAML of W&B, checked offline, run under agents, and run here without a server."""
