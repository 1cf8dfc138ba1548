"""Base models: loading them, and one file per model family."""

from moe_tune.base.plugins import import_siblings

import_siblings(__name__, __path__)
