"""What each intervention is by its definition, to the last bit where that can be asked."""

import pytest
import torch

from moe_tune.answer_path.settings import AnswerPath
from moe_tune.base.errors import ConfigError
from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.dropped_experts import DroppedExperts
from moe_tune.heads.identity import IdentityHead
from moe_tune.heads.retuned import RetunedHead
from moe_tune.heads.swapped_expert import SwappedExpert
from moe_tune.interventions.answers import answers_under, arrays_of
from moe_tune.interventions.heads import decisions, entry
from moe_tune.interventions.patches import BACK, INTO, patch_frame
from moe_tune.interventions.plan import Intervention, single
from moe_tune.interventions.untouched import seen_untouched
from moe_tune.interventions.walk import AnswerWalk, PromptWalk, walk_of
from moe_tune.models.base_model import BaseModel
from moe_tune.stats.ratios import ratio
from moe_tune.tuner.evaluate import quiz
from moe_tune.tuner.offsets import examiner_of

BASE = BaseModel("nano", experts_implementation="eager")
LAYERS = [0, 1, 2, 3]


@pytest.fixture
def asked(tmp_path):
    """Give a function that returns a way of answering 24 questions, and their batches."""

    def walk(scope="answer", head=None, layers="all", kind=walk_of):
        model, family = BASE.load()
        gated = GatedModel(model, family, head or IdentityHead(), layers, scope)
        questions = quiz(NanoQuiz(24, 24), BASE, protocol="nano_quiz")
        examiner = examiner_of(gated, questions, AnswerPath(folder=str(tmp_path)))
        made = kind(examiner, "validation", LAYERS, scope) if kind is walk_of else kind(examiner, "validation", scope)
        return made, list(questions.loader("validation"))

    return walk


def shaken(gated, by=0.3):
    """Move the weights of retuned heads."""
    draw = torch.Generator().manual_seed(0)
    gated.load_state(
        {name: one + by * torch.randn(one.shape, generator=draw) for name, one in gated.state().items()}, ""
    )
    gated.train(False)
    return gated.heads


@pytest.mark.parametrize("kind", ["drop", "mean"])
@pytest.mark.parametrize("layer", [0, 3])
def test_questions_that_are_not_routed_to_an_expert_keep_every_bit(asked, kind, layer):
    """Beside the untouched model in one pass: the same products, so that rounding is the same, too."""
    walk, batches = asked()
    gated = walk.examiner.gated
    untouched = seen_untouched(walk, batches, {}, LAYERS, means=True)
    means = {layer: untouched.layers[layer].mean_ED}
    for batch in batches:
        walk.open(batch)
        for expert in (1, 7, 30):
            routed_B = untouched.layers[layer].chosen_QE[batch.question_B, expert]
            one = entry(gated, {}, single(kind, layer, expert), means)
            entering = walk.entering({}, layer, untouched.layers[layer].entering_QD)
            came, base = (walk.onwards(layer, entering, [heads]) for heads in (one, {}))
            assert torch.equal(came[~routed_B], base[~routed_B])
            assert routed_B.all() or not routed_B.any() or not torch.equal(came, base)


def test_an_expert_that_is_dropped_weighs_nothing_and_the_others_as_before(family, build_model, batch):
    model = build_model(family)
    gated = GatedModel(model, family, DroppedExperts({1: [2, 5]}), "all", "all")
    with torch.no_grad():
        model(**batch)
        dropped = gated.trace.outputs[1]
        with gated.session(base_only=True):
            model(**batch)
        base = gated.trace.outputs[1]
    assert torch.equal(dropped.experts_TK, base.experts_TK)
    gone_TK = ((base.experts_TK == 2) | (base.experts_TK == 5)) & base.counted_TK
    assert gone_TK.any()
    assert not dropped.weights_TK[gone_TK].any()
    assert torch.equal(dropped.weights_TK[~gone_TK], base.weights_TK[~gone_TK])


def test_forcing_an_expert_in_is_the_identity_where_it_is_chosen_and_one_exchange_elsewhere(family, build_model, batch):
    model = build_model(family)
    gated = GatedModel(model, family, SwappedExpert({0: 3}), "all", "all")
    with torch.no_grad():
        model(**batch)
        forced = gated.trace.outputs[0]
        with gated.session(base_only=True):
            model(**batch)
        base = gated.trace.outputs[0]
    there_T = (base.experts_TK == 3).any(-1) | ~base.mask_T
    assert there_T.any()
    assert not there_T.all()
    assert torch.equal(forced.experts_TK[there_T], base.experts_TK[there_T])
    assert torch.equal(forced.weights_TK[there_T], base.weights_TK[there_T])
    assert torch.equal(forced.experts_TK[~there_T, :-1], base.experts_TK[~there_T, :-1])
    assert (forced.experts_TK[~there_T, -1] == 3).all()
    wanted_TK = forced.rule.own_weights(base.logits_TE, base.probs_TE, forced.experts_TK)
    torch.testing.assert_close(forced.weights_TK, wanted_TK)


@pytest.mark.parametrize("scope", ["answer", "all"])
def test_all_decisions_patched_are_the_retuned_model_and_none_the_pretrained_to_the_last_bit(asked, scope):
    walk, batches = asked(scope, RetunedHead(), kind=PromptWalk)
    gated = walk.examiner.gated
    heads = shaken(gated)
    for batch in batches:
        walk.open(batch)
        base, none = walk.whole({}), walk.whole({})
        retuned = walk.whole(heads)
        patch = decisions(gated, LAYERS, scope)
        assert torch.equal(base, none)
        assert not torch.equal(base, retuned)
        assert torch.equal(walk.whole(patch), retuned)


def test_patched_decisions_go_both_ways(asked):
    walk, batches = asked("answer", RetunedHead(), "last-2")
    heads = shaken(walk.examiner.gated)
    frame = patch_frame(walk, batches, heads, torch.arange(24).numpy()).set_index(["direction", "layer"])["log_prob"]
    assert set(frame.index) == {(way, layer) for way in (INTO, BACK) for layer in (2, 3, -1)}
    assert frame[INTO, -1] == pytest.approx(-frame[BACK, -1], abs=1e-6)
    # The lowest retuned router reads what it reads in the pretrained model: its decisions are those of its head there.
    change = []
    for batch in batches:
        walk.open(batch)
        before_BA, after_BA = (walk.whole(one).double() for one in ({}, {2: heads[2]}))
        change.append((after_BA - before_BA).gather(1, batch.gold_B[:, None])[:, 0])
    assert frame[INTO, 2] == pytest.approx(float(torch.cat(change).mean()), abs=1e-6)


@pytest.mark.parametrize("kind", ["mask", "drop", "mean", "swap"])
def test_effects_on_the_answer_path_are_those_of_full_prompts(asked, kind):
    many = [single(kind, 1, expert) for expert in (0, 9, 33, 60)]
    if kind != "swap":
        many.append(Intervention(kind, ((1, (9, 33)), (3, (2, 4)))))
    found = []
    for walk, batches in (asked(), asked(kind=PromptWalk)):
        untouched = seen_untouched(walk, batches, {}, LAYERS, means=True)
        found.append((untouched, arrays_of(answers_under(walk, batches, {}, untouched, many, ""))))
    assert isinstance(asked()[0], AnswerWalk)
    (untouched, came), (_, wanted) = found
    for what in ("log_prob", "kl"):
        torch.testing.assert_close(*(torch.from_numpy(one[what]) for one in (came, wanted)), atol=1e-5, rtol=0)
    assert (came["log_prob"] != untouched.right_Q.numpy()).any()


def test_under_a_retuned_router_it_is_the_retuned_router_that_is_changed(asked):
    """Of a router moved far, each expert masked on top of it; against whole prompts through a model of both heads."""
    walk, batches = asked("answer", RetunedHead(), "last-2")
    heads = shaken(walk.examiner.gated)
    full, _ = asked("answer", RetunedHead(), "last-2", kind=PromptWalk)
    other = shaken(full.examiner.gated)
    one = single("mask", 2, 5)
    untouched = seen_untouched(walk, batches, heads, LAYERS, means=False)
    came = arrays_of(answers_under(walk, batches, heads, untouched, [one], ""))["log_prob"][0]
    for batch in batches:
        full.open(batch)
        log_probs_BA = full.whole(entry(full.examiner.gated, other, one, {}))
        wanted_B = log_probs_BA.gather(1, batch.gold_B[:, None])[:, 0]
        torch.testing.assert_close(torch.from_numpy(came[batch.question_B]), wanted_B, atol=1e-5, rtol=0)


def test_what_is_observed_is_what_the_trace_says(asked):
    walk, batches = asked()
    untouched = seen_untouched(walk, batches, {}, [2], means=True)
    facts = untouched.layers[2]
    assert (facts.chosen_QE.sum(-1) == 8).all()
    assert torch.equal(facts.chosen_QE, facts.weight_QE > 0)
    assert torch.equal(facts.count_E, facts.chosen_QE.sum(0))
    assert facts.usage_E == pytest.approx(ratio(facts.chosen_QE.sum(0).numpy(), torch.tensor(24).numpy()))
    assert (facts.saliency_QE[facts.chosen_QE] > 0).all()


@pytest.mark.parametrize("scope", ["answer", "all"])
def test_too_few_experts_left_is_an_error_that_names_the_layer(asked, scope):
    walk, _ = asked(scope)
    with pytest.raises(ConfigError, match="layer 2"):
        entry(walk.examiner.gated, {}, Intervention("mask", ((2, tuple(range(60))),)), {})
