"""moe_tune: the lab bench for gating fixes in mixture-of-experts language models."""

__version__ = "0.1.0"
