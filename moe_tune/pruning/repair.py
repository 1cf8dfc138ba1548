"""Repair: the routers of a pruned model are tuned with the model before as teacher, and what came back is told."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from moe_tune.base.found import found_checkpoint
from moe_tune.base.published import published
from moe_tune.heads.identity import IdentityHead
from moe_tune.heads.retuned import RetunedHead
from moe_tune.heads.stack import Stack
from moe_tune.models.base_model import BaseModel
from moe_tune.pruning.before_after import BeforeAfter, compared_columns
from moe_tune.pruning.judged_model import JudgedSet
from moe_tune.pruning.prune_settings import Source
from moe_tune.reports.table import Table, interval, numbers, words
from moe_tune.runs.directory import to_yaml
from moe_tune.settings.running import run
from moe_tune.stats.bootstrap import ratio_bootstrap
from moe_tune.tuner.opening import ModelSettings

REPAIR = "repair.yaml"
"""The configuration of the fit that repairs, in the folder of the pruned model."""
OF_A_FIT = ("seed_everything", "trainer", "data", "optimizer", "lr_scheduler")
"""Sections of the configuration that the repair takes as they are, but for the trainer's callbacks."""
LAST = {
    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
    "init_args": {"filename": "last", "enable_version_counter": False},
}
"""The one checkpoint of a repair: a best one, or an early end, would be chosen on the questions that judge."""


@dataclass(frozen=True, slots=True)
class CameBack:
    """How much of what pruning took is there again.

    Args:
        share: Of the loss: 0 is none, 1 all; NaN where pruning took nothing that could be shown.
        ci95: Its 95 % interval, by bootstrap over questions or documents of equal content.
    """

    share: float
    ci95: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Repaired:
    """How a set goes after a repair.

    Args:
        pair: Pruned against repaired.
        back: How much came back.
    """

    pair: BeforeAfter
    back: CameBack


def repaired_table(rows: Sequence[Repaired], source: Source) -> Table:
    """Return what a repair has brought back, a row per set.

    Args:
        rows: The sets.
        source: What the routers were tuned on.
    """
    pairs = [one.pair for one in rows]
    shares = [one.back for one in rows]
    ends = ["" if one.ci95 is None else interval(*one.ci95, ".0f", 100) for one in shares]
    return Table(
        [
            *(one for one in compared_columns(pairs, "pruned", "repaired") if one.header not in ("figure", "n")),
            numbers("came back, %", [one.share for one in shares], ".0f", 100),
            words("95 % interval ", ends),
        ],
        caption=(
            f"Routers of every layer tuned on {'training text' if source == 'text' else 'training questions'} with the "
            "model before as teacher; no answer was read. Paired, on the same questions or documents. Came back: share "
            "of what pruning took, bootstrap over equal contents; empty where it took nothing that could be shown."
        ),
        title="What repair brings back",
        evidence="interventional",
    )


def repaired_settings(pruned: ModelSettings) -> ModelSettings:
    """Return the settings of a pruned model with a trained router in every layer, in front of the mask it may have."""
    trained, left = RetunedHead(), pruned.head
    head = trained if isinstance(left, IdentityHead) else Stack({"trained": trained, "pruned": left})
    return replace(pruned, head=head, layers="all", scope="all")


def run_repair(
    pruned: ModelSettings,
    head: Mapping[str, Any] | None,
    teacher: BaseModel | None,
    source: Source,
    out: Path,
    config: Mapping[str, Any],
    plugins: dict[str, str],
) -> Path:
    """Tune the routers of a pruned model by distillation alone, no answer being read, and return the checkpoint.

    Args:
        pruned: The pruned model.
        head: What masks its experts, as a configuration says it; ``None`` where they are gone.
        teacher: The model before; ``None`` is the base itself, unmasked.
        source: The training questions, or the text of ``data.text``.
        out: The folder of the pruned model, which keeps the repair's configuration.
        config: The resolved configuration: trainer, optimiser and data of the repair.
        plugins: sha256 of the user's plug-in files, by path.
    """
    trained: dict[str, Any] = {"class_path": "RetunedHead"}
    if head is not None:
        trained = {"class_path": "Stack", "init_args": {"parts": {"trained": trained, "pruned": dict(head)}}}
    model = {
        "base": asdict(pruned.base),
        "head": trained,
        "losses": {"distillation": {"class_path": "RouterDistillationLoss"}},
        "layers": "all",
        "scope": "all",
        "task_weight": 0.0,
        "task": "next_token" if source == "text" else "quiz",
        "routing_dtype": pruned.routing_dtype,
        "answer_path": asdict(pruned.answer_path),
        "teacher": None if teacher is None else asdict(teacher),
    }
    fit = {key: config[key] for key in OF_A_FIT if config.get(key) is not None}
    fit["trainer"] = {**fit["trainer"], "callbacks": [LAST]}
    with published(out / REPAIR) as draft:
        draft.write_text(to_yaml({**fit, "model": model}), encoding="utf-8")
    words = ["--runs_root", str(config["runs_root"]), "--name", f"repair-{out.name}", "--test_after_fit", "false"]
    path = run(["fit", "--config", str(out / REPAIR), *words], plugins).path
    return found_checkpoint(path / "checkpoints" / "last.ckpt", Path(config["runs_root"]))


def came_back(before: JudgedSet, pruned: JudgedSet, repaired: JudgedSet) -> CameBack:
    """Return the share of what pruning took that a repair has brought back.

    Formula, over questions (correct or not) or scored tokens (losses): ``sum (repaired - pruned) / sum (before -
    pruned)``; only where pruning has made the set surely worse, by its 95 % interval: a share of nothing says nothing.

    Args:
        before: What the model before made of a set.
        pruned: What the pruned model made of it.
        repaired: What the repaired one makes of it.
    """
    gains = [_gain(pruned, other) for other in (repaired, before)]
    cluster_Q = np.unique(before.frame["content_hash"].to_numpy(), return_inverse=True)[1]
    back_C, lost_C = (np.bincount(cluster_Q, weights=one).astype(np.float64) for one in gains)
    if len(lost_C) < 2 or ratio_bootstrap(lost_C, np.ones_like(lost_C))[0] <= 0:
        return CameBack(float("nan"), None)
    return CameBack(float(back_C.sum() / lost_C.sum()), ratio_bootstrap(back_C, lost_C))


def _gain(worse: JudgedSet, better: JudgedSet) -> Any:
    """Return how much better each question or document goes."""
    if worse.kind == "text":
        return (worse.frame["loss"] - better.frame["loss"]).to_numpy() * worse.frame["tokens"].to_numpy()
    return better.frame["correct"].to_numpy(dtype=np.float64) - worse.frame["correct"].to_numpy(dtype=np.float64)
