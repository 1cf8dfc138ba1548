"""Imports the whole package and computes nothing: what processes of fault cases are forked from."""

import importlib
import pkgutil

from moe_tune.base.uncollected import uncollected

_package = importlib.import_module(__name__.partition(".")[0])
with uncollected():  # in the forked ones, too, the collector passes over what they share
    for _module in pkgutil.walk_packages(_package.__path__, f"{_package.__name__}."):
        if not _module.name.endswith("__main__"):
            importlib.import_module(_module.name)
