"""The short cases, which come with the program: the modules of ``moe_tune.faults.cases``."""

import importlib
import pkgutil

from moe_tune.faults import cases
from moe_tune.faults.case import Case


def short_cases() -> list[Case]:
    """Return the cases of ``doctor --selftest``, module by module."""
    names = sorted(module.name for module in pkgutil.iter_modules(cases.__path__, f"{cases.__name__}."))
    return [case for name in names for case in importlib.import_module(name).CASES]
