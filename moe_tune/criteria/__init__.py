"""Criteria of pruning, one per file: each says which experts of a layer are to stay the longest."""

from moe_tune.base.plugins import import_siblings

import_siblings(__name__, __path__)
