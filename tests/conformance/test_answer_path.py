"""The answer path is exact: every head, loss and metric gives what it gives on the full prompts at scope ``answer``."""

import copy
from types import SimpleNamespace

import pytest
import test_losses
import torch
from head_cases import CASES, IDS, each_head, each_head_in_turn, in_its_mode, required, shake, take_turns
from made_up import layer_table, neighbour_routes, oracle_routes, sampled_routes
from tolerances import rounding_of
from torch.nn import functional

from moe_tune.answer_path.forward import answer_logits
from moe_tune.answer_path.prefixes import shared_prefixes
from moe_tune.answer_path.prompt_pass import PromptPass, StreamedStates
from moe_tune.data.encoding import PromptedQuestion
from moe_tune.gates.gated_model import EXTRAS, GatedModel
from moe_tune.heads.retuned import RetunedHead
from moe_tune.heads.stack import Stack
from moe_tune.losses.base import LossContext
from moe_tune.metrics.base import MetricShape, Outcome
from moe_tune.metrics.evidence import RoutingEvidence

QUESTIONS = 32
LETTERS = torch.tensor([3, 4, 5, 6])
DIFFERENCES = (
    *("AccuracyPullLoss", "DeadExpertHingeLoss", "MutualInformationLoss", "ProbabilityVarianceLoss"),
    *("RouterDistillationLoss", "RoutingAnchorLoss", "UniformDistanceLoss", "OracleDistillationLoss", "ManifoldLoss"),
)
"""Losses that subtract probabilities, or entropies and divergences made of them, and may leave next to nothing."""
GOLD_Q = torch.randint(4, (QUESTIONS,), generator=torch.Generator().manual_seed(3))


def prompts(shots):
    """Return random prompts of two subjects; with worked examples those of a subject share their first 70 tokens."""
    draw = torch.Generator().manual_seed(shots)
    opening = {name: torch.randint(1, 64, (14 * shots,), generator=draw) for name in ("one", "two")}
    made = []
    for index in range(QUESTIONS):
        subject = "two" if index % 3 else "one"
        own = torch.randint(1, 64, (int(torch.randint(1, 20, (), generator=draw)),), generator=draw)
        ids_S = torch.cat([opening[subject], own]).int()
        made.append(PromptedQuestion(SimpleNamespace(subject=subject), ids_S, shots))
    return made


class Side:
    """One of the two ways to the logits: from kept states, or from the full prompts."""

    def __init__(self, model, family, head, shots, kept, layers="last-2"):
        self.model = model
        self.routers = GatedModel(model, family, head, layers, "answer", "float32", EXTRAS)
        self.prompts, self.kept = prompts(shots), kept
        first = min(self.routers.layers)
        lower = tuple(one for one in self.routers.gates if one < first)
        self.shape = family.state_shape(model.config, first, lower, torch.float32)
        self.states = StreamedStates(
            PromptPass(self.routers, self.shape, self.prompts, shared_prefixes(self.prompts), pad_id=0)
        )

    def logits(self, question_B):
        if self.kept:
            return answer_logits(self.routers, self.shape, self.states.batch(question_B))
        rows = [self.prompts[index].ids_S.long() for index in question_B.tolist()]
        length_B = torch.tensor([len(row) for row in rows])
        ids_BS = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask_BS = (torch.arange(ids_BS.shape[1]) < length_B[:, None]).long()
        return self.model(input_ids=ids_BS, attention_mask=mask_BS).logits[torch.arange(len(rows)), length_B - 1]

    def letters(self, question_B):
        return functional.log_softmax(self.logits(question_B)[:, LETTERS], dim=-1)

    def gradient(self):
        """Return the whole gradient as one vector; a layer whose own is next to nothing is held to the others'."""
        return torch.cat([parameter.grad.flatten() for parameter in self.routers.trainable().values()])

    def backward(self, loss):
        """Take the gradients, and return the size of the products they are differences of.

        ``dL/dz_j = p_j (dL/dp_j - sum_i p_i dL/dp_i)``, and its product with what the router read.
        """
        outputs = self.routers.trace.outputs.values()
        chances = [one for output in outputs for one in (output.probs_TE, output.weights_TK) if one.requires_grad]
        for one in chances:
            one.retain_grad()
        loss.backward()
        largest = max(float((one * one.grad).abs().max()) for one in chances if one.grad is not None)
        return largest * max(float(output.hidden_TD.abs().max()) for output in outputs)


def sides(build_model, family, head, shots, layers="last-2"):
    return [Side(build_model(family), family, copy.deepcopy(head), shots, kept, layers) for kept in (True, False)]


def assert_same(came, wanted, what, floor=1e-9):
    """Up to 1e-5 of the whole, the rounding of float32 in another order of summation, and the floor of a difference."""
    if not torch.equal(came, wanted):  # infinities have no difference
        assert (came - wanted).detach().norm() <= 1e-5 * wanted.detach().norm() + floor, what


def evidence(side, log_probs_BA, question_B):
    """Return the evidence of a batch, and the rounding of each column that is a difference."""
    metrics = RoutingEvidence(MetricShape(tuple(side.routers.gates), 8, 2, 1, len(GOLD_Q)))
    correct_B = log_probs_BA.argmax(-1) == GOLD_Q[question_B]
    metrics.update(side.routers.trace, Outcome(correct_B, 0 * question_B, question_B))
    frame = metrics.frame()
    frame = frame[frame["scope"] == "answer"].drop(columns="scope").reset_index(drop=True)
    outputs = list(side.routers.trace.at("answer"))
    of_logits = rounding_of(*(one for output in outputs for one in (output.logits_TE, output.base_logits_TE)))
    spreads = {f"{key}_std": rounding_of(frame[f"{key}_mean"]) for key in ("entropy_all", "entropy_topk")}
    return frame, {"margin_mean": of_logits, "base_kl": of_logits, **spreads}


@take_turns(CASES, IDS, ("shots", "size"), [(0, 1), (5, 32)])
def test_heads_are_exact(kind, mode, shots, size, family, build_model):
    both = sides(build_model, family, kind(**required(kind), **mode), shots)
    question_B = torch.randperm(QUESTIONS)[:size]
    letters, terms = [], []
    for side in both:
        shake(side.routers)
        in_its_mode(side.routers, kind(**required(kind), **mode))
        letters.append(side.letters(question_B))
        if side.routers.trainable():
            terms.append(side.backward(functional.nll_loss(letters[-1], GOLD_Q[question_B])))
    kept, full = both
    assert torch.equal(letters[0].argmax(-1), letters[1].argmax(-1))
    assert_same(*letters, "letters")
    if full.routers.trainable():
        assert_same(kept.gradient(), full.gradient(), "gradient", rounding_of(*terms))
    for came, wanted in zip(kept.routers.trace.at("answer"), full.routers.trace.at("answer"), strict=True):
        assert came.layer == wanted.layer
        assert torch.equal(came.experts_TK, wanted.experts_TK)
        for name in ("logits_TE", "probs_TE", "weights_TK", "base_logits_TE", "hidden_TD", "own_probs_TE"):
            assert_same(getattr(came, name), getattr(wanted, name), f"{name} of layer {came.layer}")
        assert (came.used_TK is None) == (wanted.used_TK is None)
    (came, _), (wanted, rounding) = (evidence(side, one, question_B) for side, one in zip(both, letters, strict=True))
    assert list(came) == list(wanted)
    for name in wanted:
        close = pytest.approx(wanted[name].to_numpy(), rel=1e-5, abs=rounding.get(name, 1e-7), nan_ok=True)
        assert came[name].to_numpy() == close, name


@take_turns(test_losses.CASES, test_losses.IDS, ("shots", "size", "layers"), [(5, 1, [0, 2]), (0, 32, None)])
def test_losses_are_exact(kind, mode, shots, size, layers, family, build_model, exempt):
    if "answer" not in kind.scopes:
        exempt("refused at scope answer")  # a law of test_losses
        return
    both = sides(build_model, family, RetunedHead(), shots)
    question_B = torch.randperm(QUESTIONS)[:size]
    values, terms = [], []
    for side in both:
        shake(side.routers)
        with torch.no_grad(), side.routers.session(base_only=True):
            teacher_BV = side.logits(question_B)
        logits_BV = side.logits(question_B)
        log_probs_BA = functional.log_softmax(logits_BV[:, LETTERS], dim=-1)
        context = LossContext(
            rule=side.routers.rule,
            layers=side.routers.layers,
            scope="answer",
            progress=0.5,
            letter_log_probs_BA=log_probs_BA,
            gold_B=GOLD_Q[question_B],
            logits_BV=logits_BV,
            view=side.routers.views,
            teacher_logits_BV=teacher_BV,
            tables={layer: layer_table(width=64, seed=layer) for layer in side.routers.gates},
            oracle=oracle_routes(side.routers.gates, 8, size),
            neighbours=neighbour_routes(side.routers.gates, 8, size),
            routes=sampled_routes(side.routers.gates, 8, size),
        )
        values.append(kind(**mode, layers=layers).compute(side.routers.trace, context))
        # With the task's, as training has it: alone, some losses' gradients are nothing but rounding.
        terms.append(side.backward(functional.nll_loss(log_probs_BA, GOLD_Q[question_B]) + values[-1]))
    assert_same(*values, "loss", rounding_of(1.0) if kind.__name__ in DIFFERENCES else 1e-9)
    assert_same(both[0].gradient(), both[1].gradient(), "gradient", rounding_of(*terms))


@each_head
def test_an_epoch_of_updates_agrees(kind, mode, family, build_model, exempt):
    head = kind(**required(kind), **mode)
    if not head.traits.trainable:
        exempt("nothing to train")
        return
    both = sides(build_model, family, head, 5, layers="all")
    for side in both:
        shake(side.routers)
        in_its_mode(side.routers, head)
        rate = 0.005 if isinstance(head, Stack) else 0.5  # a stack of nearly all heads enlarges rounding most
        optimizer = torch.optim.SGD(side.routers.trainable().values(), lr=rate, momentum=0.9)
        for question_B in torch.arange(QUESTIONS).split(7):
            optimizer.zero_grad()
            functional.nll_loss(side.letters(question_B), GOLD_Q[question_B]).backward()
            optimizer.step()
    for name, value in both[1].routers.state().items():
        assert_same(both[0].routers.state()[name], value, name)


@each_head_in_turn
def test_heads_compared_in_one_pass_answer_as_each_alone(kind, mode, family, build_model):
    """Three heads over the same kept states: each gets the logits and the trace it gets by itself."""
    side = Side(build_model(family), family, kind(**required(kind), **mode), 5, kept=True)
    question_B = torch.arange(9)
    panel, alone = [], []
    for seed in range(3):
        shake(side.routers, seed)
        panel.append(copy.deepcopy(side.routers.heads))
        with torch.no_grad():
            alone.append((side.logits(question_B), list(side.routers.trace.at("answer"))))
    with torch.no_grad(), side.routers.session(panel):
        together_BV = side.logits(question_B)
    for index, (logits_BV, outputs) in enumerate(alone):
        assert_same(together_BV[index::3], logits_BV, f"head {index}")
        for came, wanted in zip(side.routers.trace.of_head(index, 3).at("answer"), outputs, strict=True):
            assert torch.equal(came.experts_TK, wanted.experts_TK)
            assert_same(came.weights_TK, wanted.weights_TK, f"layer {came.layer}")
