"""Imports the whole package and computes nothing: what processes of fault cases are forked from."""

import importlib
import pkgutil

_package = importlib.import_module(__name__.partition(".")[0])
for _module in pkgutil.walk_packages(_package.__path__, f"{_package.__name__}."):
    if not _module.name.endswith("__main__"):
        importlib.import_module(_module.name)
