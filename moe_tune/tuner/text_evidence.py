"""How well the tokens were predicted that each expert served."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor

from moe_tune.answer_path.text_way import TextWay
from moe_tune.base.ranks import summed_over_ranks
from moe_tune.data.text_batching import TextBatch
from moe_tune.metrics.base import MetricShape, Outcome
from moe_tune.metrics.evidence import RoutingEvidence
from moe_tune.metrics.expert_accuracy import ExpertAccuracy
from moe_tune.metrics.expert_activation import ExpertActivation
from moe_tune.metrics.gate_entropy import GateEntropy
from moe_tune.tuner.text_step import Predicted, predicted

OF_TOKENS = (ExpertActivation, ExpertAccuracy, GateEntropy)
"""The metrics that mean something where every token is a question of its own."""


@torch.no_grad()
def text_evidence(
    way: TextWay, batches: Iterable[TextBatch], numerics: Callable[[], AbstractContextManager[object]] = nullcontext
) -> pd.DataFrame:
    """Return a row per layer and expert: the scored tokens it served, and how well they were predicted.

    A scored token counts where it is predicted, as a question of its own: ``questions`` are the tokens an expert
    served, ``correct`` those whose next token had the highest probability, ``token_loss`` their mean loss in nats. All
    of it is associational: which tokens an expert gets is not drawn by lot.

    Args:
        way: The way of text; what acts is the session's around it.
        batches: Blocks of held-out documents.
        numerics: Gives the context of a forward pass, such as autocast.
    """
    gated = way.here.gated
    shape = MetricShape(tuple(gated.gates), gated.rule.num_experts, gated.rule.top_k, 1, 1)
    evidence = RoutingEvidence(shape, ("answer",), OF_TOKENS).to(gated.device)
    loss_LE = torch.zeros(shape.sizes("LE"), dtype=torch.float64, device=gated.device)
    training = gated.training
    gated.train(False)
    try:
        for given in batches:
            batch = given.to(gated.device)
            with gated.session(needs=(), answer_BS=batch.answer_BS) as session, numerics():
                found = predicted(way, batch, "validation", "evidence")
                assert session.trace is not None
                trace = replace(session.trace, question_T=torch.arange(batch.next_BS.numel(), device=gated.device))
                evidence.update(trace, _outcome(batch, found))
                for index, output in enumerate(trace.at("answer")):
                    slots = output.experts_TK.shape[-1]
                    loss_TK = found.loss_M.double()[:, None].expand(-1, slots) * output.counted_TK
                    loss_LE[index].index_add_(0, output.experts_TK.reshape(-1), loss_TK.reshape(-1))
                trace.forget()
    finally:
        gated.train(training)
    frame = evidence.frame()
    return frame.assign(token_loss=summed_over_ranks(loss_LE).flatten().cpu().numpy() / frame["count"])


def _outcome(batch: TextBatch, found: Predicted) -> Outcome:
    correct_T = torch.zeros_like(batch.next_BS, dtype=torch.bool).flatten()
    correct_T[batch.answer_BS.flatten()] = found.logits_MV.argmax(-1) == found.next_M
    none_T: Tensor = torch.zeros_like(correct_T, dtype=torch.long)
    return Outcome(correct_T, none_T, none_T)
