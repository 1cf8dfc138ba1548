"""Old module names, which saved configurations, plug-in files and checkpoints still carry, lead to the new modules."""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "moe_tune.calibration": "moe_tune.tuner.calibration",
    "moe_tune.errors": "moe_tune.base.errors",
    "moe_tune.gate": "moe_tune.gates.gated_model",
    "moe_tune.layer_choice": "moe_tune.routing.layer_choice",
    "moe_tune.module": "moe_tune.tuner.router_tuner",
    "moe_tune.plugins": "moe_tune.base.plugins",
    "moe_tune.ranks": "moe_tune.base.ranks",
    "moe_tune.results": "moe_tune.tuner.split_results",
    "moe_tune.runs.found": "moe_tune.base.found",
    "moe_tune.runs.plain_state": "moe_tune.base.plain_state",
    "moe_tune.schedule": "moe_tune.base.schedule",
    "moe_tune.train_table": "moe_tune.tuner.train_table",
    "moe_tune.wandb_logger": "moe_tune.tracking.wandb_logger",
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


def old_spelling(config: Any) -> Any:
    """Return a configuration with its class paths as every saved one spells them; names of runs are hashes of it.

    Example:
        >>> old_spelling([{"class_path": "moe_tune.tracking.wandb_logger.RouterWandbLogger"}])
        [{'class_path': 'moe_tune.wandb_logger.RouterWandbLogger'}]
    """
    if isinstance(config, list):
        return [old_spelling(one) for one in config]
    if not isinstance(config, dict):
        return config
    spelt = {key: old_spelling(value) for key, value in config.items()}
    if isinstance(path := spelt.get("class_path"), str):
        module, _, name = path.rpartition(".")
        spelt["class_path"] = f"{_OLD.get(module, module)}.{name}" if module else path
    return spelt


_OLD = {new: old for old, new in MOVED.items()}
