"""Route regret of a model: every question of a sample answered by routes drawn from the router's own logits."""

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import pandas as pd
import torch

from moe_tune.data.batching import PromptDataset
from moe_tune.heads.base import RouterHead
from moe_tune.losses.base import RouteSampling
from moe_tune.losses.route_regret import route_scores
from moe_tune.stats.route_regret import ALL, SampledAnswers, route_regret
from moe_tune.tuner.examiner import Examiner
from moe_tune.tuner.offsets import on_answer_path, why_not_there
from moe_tune.tuner.route_sampling import answered_routes, own_route

ROUTES = 32
"""Routes drawn per question."""
UNTESTED = "not tested"
"""Stands in the place of a verdict of a fifth."""


def why_no_regret(examiner: Examiner, split: str, heads: Mapping[int, RouterHead]) -> str | None:
    """Return why routes cannot be sampled for what answers a split; ``None`` where they can.

    Args:
        examiner: Who asks.
        split: The split.
        heads: Bound heads that act; none where the pretrained router is analysed.
    """
    if heads and examiner.gated.scope != "answer":
        return "its heads act on every token"
    if not examiner.gated.gates[max(examiner.gated.gates)].rule.described:
        return "its router weighs in no known closed form, so that no other choice can be weighed"
    if any(head.traits.variable_k for head in heads.values()):
        return "a head chooses how many experts there are"
    if any(part.chooses() for head in heads.values() for part in head.modules() if isinstance(part, RouterHead)):
        return "a head chooses the questions it acts on"
    return why_not_there(examiner, split)


def measure_regret(
    examiner: Examiner, split: str, heads: Mapping[int, RouterHead], questions: int, draws: int, seed: int
) -> pd.DataFrame:
    """Return route regret in the last MoE layer, one row for all questions of a sample and one per fifth of them.

    Routes are the K largest of ``z + g``, g standard Gumbel noise, weighted by the model's own rule from z, the logits
    of the router as it is analysed. Their utility is the log-probability of the correct choice.

    Args:
        examiner: Who asks.
        split: Its questions; the sample is spread evenly over them.
        heads: Bound heads that act; none where the pretrained router is analysed.
        questions: Size of the sample, at least 1.
        draws: Draws of the nulls.
        seed: Seed of routes and draws.
    """
    gated, layer = examiner.gated, max(examiner.gated.gates)
    there, sampling = on_answer_path(examiner, split, [layer, *heads]), RouteSampling(ROUTES, seed)
    prompts, quiz = examiner.quiz.encoded(split).prompts, examiner.quiz
    dataset = PromptDataset(prompts, quiz.subjects, quiz.pad_id)
    place_Q = np.unique(np.linspace(0, len(prompts) - 1, min(questions, len(prompts))).round().astype(int))
    place_Q = np.array(sorted(place_Q, key=lambda place: -len(prompts[place].ids_S)))
    size = quiz.eval_batch_size
    parts = []
    there.prepare([split])
    training = gated.training
    gated.train(False)
    try:
        with torch.no_grad(), there.numerics():
            for start in range(0, len(place_Q), size):
                batch = dataset[place_Q[start : start + size].tolist()]
                probs_BE, own_BA = own_route(there, batch, split, layer, heads)
                experts_BNK, log_probs_BNA = answered_routes(there, batch, split, layer, sampling, heads)
                score_BN = route_scores(probs_BE.double(), experts_BNK.long())
                parts.append((log_probs_BNA.double(), own_BA.double(), score_BN, batch.gold_B))
    finally:
        gated.train(training)
    log_probs_QNA, own_QA, score_QN, gold_Q = (torch.cat(one).numpy() for one in zip(*parts, strict=True))
    cluster_Q = pd.factorize(pd.Series([prompts[place].question.content_hash for place in place_Q]))[0]
    answers = SampledAnswers(log_probs_QNA, own_QA, score_QN, gold_Q, cluster_Q)
    # Fifths are there to be looked at; five more tests would find something in one of them.
    rows = [
        {"layer": layer, "confidence": name, **asdict(one), "verdict": one.verdict if name == ALL else UNTESTED}
        for name, one in route_regret(answers, draws, seed).items()
    ]
    return pd.DataFrame(rows).assign(evidence="interventional")
