"""Short fault cases, one module a topic: each has ``CASES``."""
