"""Old module names, which saved configurations, plug-in files and checkpoints still carry, lead to the new modules."""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "moe_tune.errors": "moe_tune.base.errors",
    "moe_tune.plugins": "moe_tune.base.plugins",
    "moe_tune.ranks": "moe_tune.base.ranks",
    "moe_tune.schedule": "moe_tune.base.schedule",
}
"""The new module by the old name."""


class _Alias(Loader):
    """Puts the new module under the old name: one module, so that a class has one identity."""

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        sys.modules[name] = importlib.import_module(MOVED[name])


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, _Alias()) if fullname in MOVED else None


def keep_old_names() -> None:
    """Let ``import`` find the modules of ``MOVED`` under their old names."""
    if not any(isinstance(one, _Finder) for one in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def old_spelling(class_path: str) -> str:
    """Return a class path as saved configurations spell it.

    Args:
        class_path: Where a class is now.

    Example:
        >>> old_spelling("moe_tune.base.schedule.Schedule")
        'moe_tune.schedule.Schedule'
    """
    module, _, name = class_path.rpartition(".")
    return f"{_OLD.get(module, module)}.{name}"


_OLD = {new: old for old, new in MOVED.items()}
