"""moe_tune: the lab bench for gating fixes in mixture-of-experts language models."""

import importlib
import os
from typing import TYPE_CHECKING, Any

from moe_tune.base.denied import refuse_denied
from moe_tune.base.moved import keep_old_names

if TYPE_CHECKING:
    from moe_tune.analysis.prompt_trace import trace
    from moe_tune.compare.report import compare_runs
    from moe_tune.export.load_card import load_card
    from moe_tune.gates.gated_model import GatedModel
    from moe_tune.models.base_model import BaseModel
    from moe_tune.recorder.added_losses import with_losses
    from moe_tune.recorder.routing_lightning_callback import RoutingLightningCallback
    from moe_tune.recorder.routing_recorder import RoutingRecorder
    from moe_tune.recorder.routing_trainer_callback import RoutingTrainerCallback
    from moe_tune.settings.load_head import load_head
    from moe_tune.tuner.evaluate import evaluate, quiz

# Batches of prompts and logits are tens of megabytes; in pages of 4 KiB the system spends longer on mapping them than
# the processor on filling them. PyTorch reads this before its first large allocation; where huge pages are not to be
# had, nothing changes.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

keep_old_names()

__version__ = "0.1.0"
__all__ = [
    "BaseModel",
    "GatedModel",
    "RoutingLightningCallback",
    "RoutingRecorder",
    "RoutingTrainerCallback",
    "compare_runs",
    "evaluate",
    "load_card",
    "load_head",
    "quiz",
    "trace",
    "with_losses",
]

_HOMES = {
    "BaseModel": "moe_tune.models.base_model",
    "GatedModel": "moe_tune.gates.gated_model",
    "RoutingLightningCallback": "moe_tune.recorder.routing_lightning_callback",
    "RoutingRecorder": "moe_tune.recorder.routing_recorder",
    "RoutingTrainerCallback": "moe_tune.recorder.routing_trainer_callback",
    "compare_runs": "moe_tune.compare.report",
    "evaluate": "moe_tune.tuner.evaluate",
    "load_card": "moe_tune.export.load_card",
    "load_head": "moe_tune.settings.load_head",
    "quiz": "moe_tune.tuner.evaluate",
    "trace": "moe_tune.analysis.prompt_trace",
    "with_losses": "moe_tune.recorder.added_losses",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: the command line answers without loading torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'moe_tune' has no attribute {name!r}")
    refuse_denied()
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
