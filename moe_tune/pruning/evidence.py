"""The pass that a criterion reads: where the tokens of training questions went, and how the questions were answered."""

from contextlib import nullcontext

from moe_tune.criteria.base import Criterion, ExpertEvidence
from moe_tune.pruning.output_norms import output_norms
from moe_tune.routing import Scope
from moe_tune.tuner.examiner import Examiner


def gathered(examiner: Examiner, criterion: Criterion, split: str, scope: Scope) -> ExpertEvidence:
    """Return what a criterion needs to see of every expert; where it needs nothing, no question is asked.

    Args:
        examiner: Asks the model the questions, with no head on it that changes anything.
        criterion: The criterion.
        split: ``train`` or ``validation``: the questions that it may be chosen on.
        scope: Which tokens count.
    """
    gated = examiner.gated
    layers, experts = tuple(gated.gates), gated.rule.num_experts
    if not criterion.needs:
        return ExpertEvidence(layers, experts, scope, split)
    norms = "norms" in criterion.needs
    if scope == "all" or norms:
        examiner = examiner.on_full_prompts()
    results = examiner.results(split, (scope,))
    with output_norms(gated, scope) if norms else nullcontext() as sums_LE:
        examiner.evaluate(split, results, announced=f"{split}, which experts serve whom")
    frame = results.evidence.frame()
    if sums_LE is not None:
        frame["norm_sum"] = sums_LE.reshape(-1).cpu().numpy()
    questions = sum(len(part) for part in results.question_Q)
    return ExpertEvidence(layers, experts, scope, split, questions, frame)
