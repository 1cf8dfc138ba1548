"""Router heads, one per file: each maps a router's hidden states to a changed routing decision."""

from moe_tune.base.plugins import import_siblings

import_siblings(__name__, __path__)
