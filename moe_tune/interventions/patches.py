"""I5: one layer's router decisions are copied from the retuned model into the pretrained one, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from moe_tune.base.progress import with_bar
from moe_tune.data.batching import Batch
from moe_tune.heads.base import RouterHead
from moe_tune.interventions.effects import INTERVENTIONAL
from moe_tune.interventions.heads import Heads, decisions
from moe_tune.interventions.walk import Walk, watched_layers
from moe_tune.stats.clustered_means import clustered_means

INTO = "into pretrained"
BACK = "back into retuned"


@dataclass(frozen=True, slots=True, eq=False)
class _Pass:
    """One router's pass over a batch."""

    heads: Heads
    log_probs_BA: Tensor
    decided: Heads
    entering: Mapping[int, Tensor]


def patch_frame(walk: Walk, batches: Sequence[Batch], retuned: Heads, cluster_Q: NDArray[np.intp]) -> pd.DataFrame:
    """Return what the decisions of each layer, and of all, change when they are copied from one model into the other.

    Columns: ``direction``; ``layer``, -1 for all layers together; the mean change of the right letter's log-probability
    and of accuracy, with 95 % intervals; ``share``, the change as a share of what all layers together change.

    Args:
        walk: How questions are answered.
        batches: All of them.
        retuned: The retuned model's heads.
        cluster_Q: Number of the group of equal questions each belongs to.
    """
    layers = sorted(retuned)
    several = [*layers, -1]
    shape = (2, len(several), len(cluster_Q))
    change, turned = np.zeros(shape), np.zeros(shape)
    for batch in with_bar(batches, "router decisions copied"):
        walk.open(batch)
        base, tuned = (_passed(walk, heads, layers) for heads in ({}, retuned))
        place_B, gold_B = batch.question_B.cpu().numpy(), batch.gold_B.cpu()
        for way, (source, target) in enumerate(((tuned, base), (base, tuned))):
            for index, layer in enumerate(several):
                patch = source.decided if layer < 0 else {layer: source.decided[layer]}
                start = min(patch)
                after_BNA = walk.onwards(start, target.entering[start], [{**target.heads, **patch}])
                before_B, after_B = (_right(one, gold_B) for one in (target.log_probs_BA, after_BNA[:, 0]))
                change[way, index, place_B] = (after_B - before_B).numpy()
                was_B, is_B = (one.cpu().argmax(-1) == gold_B for one in (target.log_probs_BA, after_BNA[:, 0]))
                turned[way, index, place_B] = is_B.double().numpy() - was_B.double().numpy()
    rows = []
    for way, direction in enumerate((INTO, BACK)):
        log_prob, accuracy = (clustered_means(values[way], cluster_Q) for values in (change, turned))
        whole = log_prob.value[-1]
        for index, layer in enumerate(several):
            ends = {
                f"{name}{end}": getattr(means, which)[index]
                for name, means in (("log_prob", log_prob), ("accuracy", accuracy))
                for end, which in (("", "value"), ("_low", "low"), ("_high", "high"))
            }
            share = float(log_prob.value[index] / whole) if whole else float("nan")
            rows.append({"direction": direction, "layer": layer, **ends, "p": log_prob.p[index], "share": share})
    return pd.DataFrame(rows).assign(scope=walk.scope, questions=len(cluster_Q), evidence=INTERVENTIONAL)


def _passed(walk: Walk, heads: Mapping[int, RouterHead], layers: Sequence[int]) -> _Pass:
    gated = walk.examiner.gated
    with watched_layers(gated, layers) as seen, torch.no_grad():
        log_probs_BA = walk.whole(heads)
    entering = {layer: hidden[:, 0] if walk.keeps else hidden for layer, hidden in seen.items()}
    return _Pass(dict(heads), log_probs_BA, decisions(gated, layers, walk.scope), entering)


def _right(log_probs_BA: Tensor, gold_B: Tensor) -> Tensor:
    return log_probs_BA.cpu().double().gather(1, gold_B[:, None])[:, 0]
