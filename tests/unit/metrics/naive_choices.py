"""The choices of a made-up trace one at a time, for slow references."""

import numpy as np
import torch

from moe_tune.metrics.base import MetricShape, Outcome

SHAPE = MetricShape(layers=(0, 1, 2), num_experts=8, top_k=2, num_subjects=3, num_questions=7)
LENGTHS = (4, 1, 3, 5, 2)
# Questions have places in the split that are neither in order nor complete.
OUTCOME = Outcome(
    torch.tensor([True, False, True, True, False]), torch.tensor([0, 2, 2, 1, 0]), torch.tensor([3, 0, 6, 2, 5])
)


def tokens(trace, scope):
    """Return the indices of the tokens that count."""
    return np.flatnonzero((trace.answer_T if scope == "answer" else trace.real_T).numpy())


def chosen(output, token):
    """Return the experts of a token and their weights, {expert: weight}, slots not in use left out."""
    return {
        int(output.experts_TK[token, slot]): output.weights_TK[token, slot].item()
        for slot in range(output.experts_TK.shape[1])
        if output.used_TK is None or output.used_TK[token, slot]
    }


def table(kind, scope, trace):
    """Return a metric's tables in numpy."""
    metric = kind(SHAPE, scope)
    metric.update(trace, OUTCOME)
    return {name: one.numpy() for name, one in metric.compute().items()}
