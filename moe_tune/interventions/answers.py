"""How questions are answered while interventions are carried out, many side by side."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from moe_tune.base.progress import with_bar
from moe_tune.data.batching import Batch
from moe_tune.interventions.heads import Heads, entry
from moe_tune.interventions.plan import Intervention
from moe_tune.interventions.untouched import Untouched
from moe_tune.interventions.walk import Walk

OUTCOMES = ("log_prob", "correct", "kl")
"""What is kept of each answer: of the right letter, whether it is given, and how far all letters have moved."""


def answers_under(
    walk: Walk,
    batches: Sequence[Batch],
    router: Heads,
    untouched: Untouched,
    many: Sequence[Intervention],
    name: str,
) -> pd.DataFrame:
    """Return how each question is answered under each of several interventions that begin in one layer.

    The layers below it do not run.

    Args:
        walk: How questions are answered.
        batches: All of them.
        router: The heads that act in the model.
        untouched: What the model does by itself.
        many: The interventions.
        name: What stands before the bar.

    Returns:
        A row per intervention, by its place in ``many``, and question, by its index in the split: ``log_prob`` of the
        right letter, whether it is ``correct``, and ``kl`` of the letters, untouched against this, in nats.
    """
    (start,) = {one.start for one in many}
    gated, facts = walk.examiner.gated, untouched.layers
    means = {layer: one.mean_ED for layer, one in facts.items() if one.sum_ED is not None}
    entries = [entry(gated, router, one, means) for one in many]
    found = {what: np.empty((len(many), len(untouched.gold_Q)), dtype=np.float32) for what in OUTCOMES}
    steps = []
    for batch in batches:
        size = walk.side_by_side(batch)
        steps += [(batch, first, size) for first in range(0, len(many), size)]
    for batch, first, size in with_bar(steps, name):
        place_B = batch.question_B.cpu()
        if first == 0:
            walk.open(batch)
            entering = walk.entering(router, start, facts[start].entering_QD)
        log_probs_BNA = walk.onwards(start, entering, entries[first : first + size])
        outcomes = judged(untouched.log_probs_QA[place_B], log_probs_BNA.cpu(), untouched.gold_Q[place_B])
        for what, value_BN in outcomes.items():
            found[what][first : first + size, place_B.numpy()] = value_BN.T.numpy()
    return frame_of(found)


def judged(before_BA: Tensor, after_BNA: Tensor, gold_B: Tensor) -> Mapping[str, Tensor]:
    """Return what becomes of each answer, (B, N), by the names of ``OUTCOMES``.

    Formula: ``KL = sum_a p_a (log p_a - log q_a)`` over the letters, p before and q after, in float64.
    """
    gold_BN1 = gold_B[:, None, None].expand(-1, after_BNA.shape[1], 1)
    before_B1A, after = before_BA.double()[:, None], after_BNA.double()
    gap_BNA = torch.where(before_B1A.isfinite(), before_B1A - after, 0.0)
    return {
        "log_prob": after_BNA.gather(-1, gold_BN1)[..., 0],
        "correct": (after_BNA.argmax(-1) == gold_B[:, None]).float(),
        "kl": (before_B1A.exp() * gap_BNA).sum(-1).clamp(min=0),  # rounding goes below
    }


def frame_of(found: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Return answers as rows."""
    many, questions = next(iter(found.values())).shape
    places = {
        "intervention": np.repeat(np.arange(many, dtype=np.int32), questions),
        "question": np.tile(np.arange(questions, dtype=np.int32), many),
    }
    return pd.DataFrame({**places, **{what: values.reshape(-1) for what, values in found.items()}})


def arrays_of(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return rows as arrays, (interventions, questions)."""
    shape = (int(frame["intervention"].max()) + 1, int(frame["question"].max()) + 1)
    return {what: frame[what].to_numpy().reshape(shape) for what in OUTCOMES}
