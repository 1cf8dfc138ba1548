"""Routing metrics, one per file: each a pure function beside a torchmetrics class."""

from moe_tune.base.plugins import import_siblings

import_siblings(__name__, __path__)
