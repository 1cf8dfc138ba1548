"""Auxiliary losses, one per file: each is a scalar of a routing trace."""

from moe_tune.base.plugins import import_siblings

import_siblings(__name__, __path__)
