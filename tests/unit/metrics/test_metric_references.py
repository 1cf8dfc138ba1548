"""Every routing metric agrees with a naive reference that looks at one token of one layer after another."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
from naive_choices import LENGTHS, OUTCOME, SHAPE, chosen, table, tokens
from tolerances import rounding_of

from moe_tune.metrics.base_drift import BaseDrift
from moe_tune.metrics.co_activation import CoActivation
from moe_tune.metrics.expert_accuracy import ExpertAccuracy
from moe_tune.metrics.expert_activation import ExpertActivation
from moe_tune.metrics.gate_entropy import GateEntropy
from moe_tune.metrics.gate_margin import NEAR, GateMargin
from moe_tune.metrics.question_routing import QuestionRouting
from moe_tune.metrics.weight_profile import WeightProfile

E, K, S, Q = SHAPE.num_experts, SHAPE.top_k, SHAPE.num_subjects, SHAPE.num_questions


class Token:
    """One token of a layer in float64: its logits and probabilities, the experts chosen with their weights."""

    def __init__(self, trace, output, index):
        self.weights = chosen(output, index)
        self.z, self.z0, self.p = (
            one[index].detach().double().numpy() for one in (output.logits_TE, output.base_logits_TE, output.probs_TE)
        )
        self.question = int(trace.question_T[index])
        self.right = bool(OUTCOME.correct_B[self.question])
        self.subject = int(OUTCOME.subject_B[self.question])
        self.place = int(OUTCOME.question_B[self.question])


def activation(layer):
    count, mass = np.zeros(E), np.zeros(E)
    for token in layer:
        for expert, weight in token.weights.items():
            count[expert] += 1
            mass[expert] += weight
    return {"count": count, "weight_mass": pytest.approx(mass, rel=1e-6), "tokens": len(layer)}


def accuracy(layer):
    """A question counts once for an expert, however many of its tokens chose it."""
    asked, right, mass = np.zeros((E, S)), np.zeros((E, S)), np.zeros(E)
    for question, expert in {(token.question, expert) for token in layer for expert in token.weights}:
        subject = OUTCOME.subject_B[question]
        asked[expert, subject] += 1
        right[expert, subject] += bool(OUTCOME.correct_B[question])
    for token in layer:
        for expert, weight in token.weights.items():
            mass[expert] += weight * token.right
    both = {"questions_by_subject": asked, "correct_by_subject": right}
    sums = {"questions": asked.sum(1), "correct": right.sum(1)}
    return {**both, **sums, "mass_correct": pytest.approx(mass, rel=1e-6)}


def entropy(layer):
    every = [scipy.stats.entropy(token.p) for token in layer]
    top = [scipy.stats.entropy(list(token.weights.values())) for token in layer]
    told = {"entropy_topk_most": pytest.approx(np.mean([np.log(len(token.weights)) for token in layer]), abs=1e-12)}
    for name, values in (("entropy_all", every), ("entropy_topk", top)):
        told[f"{name}_mean"] = pytest.approx(np.mean(values), abs=1e-6)
        told[f"{name}_std"] = pytest.approx(np.std(values), abs=1e-5)
    return told


def margin(layer):
    """A spare slot moves the boundary up: K is the number of experts that were chosen."""
    margins, near = [], []
    for token in layer:
        ranked, k = sorted(token.z, reverse=True), len(token.weights)
        margins.append(ranked[k - 1] - ranked[k])
        near.append(margins[-1] < NEAR * abs(ranked[k - 1]))
    return {"margin_mean": pytest.approx(np.mean(margins), abs=1e-9), "near_tie_rate": np.mean(near), "tie_rate": 0}


def drift(layer):
    shared = total = 0
    divergences, logs = [], []
    for token in layer:
        shared += len(set(np.argsort(-token.z0)[:K]) & set(token.weights))
        total += len(token.weights)
        log_p, log_base = (scipy.special.log_softmax(one) for one in (token.z, token.z0))
        divergences.append((np.exp(log_p) * (log_p - log_base)).sum())
        logs += [log_p, log_base]
    overlap = {"base_overlap": shared / total}
    return {**overlap, "base_kl": pytest.approx(np.mean(divergences), abs=rounding_of(*logs))}


def profile(layer):
    held = [sorted(token.weights.values(), reverse=True) for token in layer]
    mass = np.mean([sum(token.p[expert] for expert in token.weights) for token in layer])
    weights = np.mean([one + [0.0] * (K - len(one)) for one in held], axis=0)
    return {"sorted_weight_mean": pytest.approx(weights, abs=1e-7), "topk_mass_mean": pytest.approx(mass, abs=1e-7)}


def pairs(layer):
    count = np.zeros((E, E))
    for token in layer:
        for one in token.weights:
            for other in token.weights:
                count[one, other] += 1
    return {"co_count": count}


def records(layer):
    """Questions have places in the split that are neither in order nor complete."""
    hits, seen, entropies = np.zeros((Q, E)), np.zeros((3, Q)), [[] for _ in range(Q)]
    for token in layer:
        hits[token.place, list(token.weights)] = 1
        seen[:, token.place] = 1, token.right, token.subject
        entropies[token.place].append(scipy.stats.entropy(list(token.weights.values())))
    means = np.array([np.mean(one) if one else 0.0 for one in entropies])
    by_layer = {"hit_QLE": hits, "tokens_question_QL": np.array([len(one) for one in entropies])}
    by_layer["entropy_question_QL"] = pytest.approx(means, abs=1e-6)
    return {**by_layer, "seen_Q": seen[0], "correct_Q": seen[1], "subject_Q": seen[2]}


REFERENCES = {
    BaseDrift: drift,
    CoActivation: pairs,
    ExpertAccuracy: accuracy,
    ExpertActivation: activation,
    GateEntropy: entropy,
    GateMargin: margin,
    QuestionRouting: records,
    WeightProfile: profile,
}


@pytest.mark.reference(*(kind.__name__ for kind in REFERENCES))
@pytest.mark.parametrize("kind", REFERENCES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("scope", ["answer", "all"])
@pytest.mark.parametrize("spare", [False, True])
def test_every_table_equals_the_naive_reference(kind, scope, spare, random_trace):
    trace = random_trace(LENGTHS, 5, spare=spare)
    tables = table(kind, scope, trace)
    for index, output in trace.outputs.items():
        wanted = REFERENCES[kind]([Token(trace, output, token) for token in tokens(trace, scope)])
        assert wanted.keys() == tables.keys()
        for name, one in tables.items():
            axes = kind.axes[name]
            came = one[:, index] if "QL" in axes else one if "L" not in axes else one[index]
            assert came.shape == np.shape(getattr(wanted[name], "expected", wanted[name])), name
            assert np.all(came == wanted[name]), name
