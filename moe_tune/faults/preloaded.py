"""Imports the whole package and computes nothing: what processes of fault cases are forked from."""

import importlib
import pkgutil

import moe_tune

for _module in pkgutil.walk_packages(moe_tune.__path__, "moe_tune."):
    if not _module.name.endswith("__main__"):
        importlib.import_module(_module.name)
