"""Base models: loading them, and one file per model family."""

from moe_tune.plugins import import_siblings

import_siblings(__name__, __path__)
