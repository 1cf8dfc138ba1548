"""What files of routes say, and how far two agree, against sets that are counted one by one."""

import numpy as np
import pytest

from moe_tune.analysis.route_files import agreement, shared_tokens, usage
from moe_tune.analysis.route_tables import told_routes
from moe_tune.base.errors import DataError
from moe_tune.base.routes import UNUSED, Routes

LENGTHS = {"a": 3, "b": 5, "c": 2}
LAYERS = [0, 2]


def routes(seed=0, lengths=LENGTHS, slots=4, experts=9, **more):
    """Return made-up routes, some slots unused; the tokens of a question depend on its name alone."""
    draw, count = np.random.default_rng(seed), sum(lengths.values())
    chosen = np.argsort(draw.random((count, 2, experts)), axis=-1)[..., :slots].astype(np.int16)
    chosen[draw.random(chosen.shape) < 0.2] = UNUSED
    tokens = np.concatenate([10 * ord(name) + np.arange(length) for name, length in lengths.items()])
    weights = draw.random(chosen.shape).astype(np.float32)
    first = np.concatenate([[0], np.cumsum(list(lengths.values()))])
    given = {"layers": LAYERS, "weights_NLK": weights, "num_experts": experts, "top_k": 4} | more
    return Routes(f"routes-{seed}", list(lengths), first, tokens, experts_NLK=chosen, **given)


def weight_of(one, place, at):
    pairs = zip(one.experts_NLK[place, at].tolist(), one.weights_NLK[place, at].tolist(), strict=True)
    return {expert: weight for expert, weight in pairs if expert != UNUSED}


def test_agreement_is_that_of_sets_counted_one_by_one():
    one, other = routes(0), routes(1, {"d": 4, "c": 2, "a": 3}, slots=6)
    mine_N, theirs_N, questions = shared_tokens(one, other)
    assert questions == 2
    assert one.token_N[mine_N].tolist() == other.token_N[theirs_N].tolist()
    frame = agreement(one, other, mine_N, theirs_N).set_index("layer")
    for at, layer in enumerate(LAYERS):
        changed, overlap, moved = [], [], []
        for a, b in zip(mine_N, theirs_N, strict=True):
            mine, theirs = weight_of(one, a, at), weight_of(other, b, at)
            changed.append(mine.keys() != theirs.keys())
            overlap.append(len(mine.keys() & theirs.keys()) / max(len(mine), len(theirs)))
            moved.append(sum(abs(mine.get(e, 0.0) - theirs.get(e, 0.0)) for e in range(9)) / 2)
        came = frame.loc[layer]
        wanted = [np.mean(changed), np.mean(overlap), np.mean(moved)]
        assert [came["other_set"], came["overlap"], came["moved"]] == pytest.approx(wanted)


def test_routes_agree_with_themselves_whatever_the_order_of_slots():
    one = routes()
    turned = routes(experts=9)
    object.__setattr__(turned, "experts_NLK", one.experts_NLK[..., ::-1])
    object.__setattr__(turned, "weights_NLK", one.weights_NLK[..., ::-1])
    mine_N, theirs_N, _ = shared_tokens(one, turned)
    frame = agreement(one, turned, mine_N, theirs_N)
    assert (frame["other_set"].tolist(), frame["overlap"].tolist(), frame["moved"].tolist()) == (
        [0] * 2,
        [1] * 2,
        [0] * 2,
    )


def test_use_is_what_is_counted_one_by_one():
    one = routes()
    for at, row in enumerate(usage(one).itertuples()):
        every = [expert for place in range(10) for expert in weight_of(one, place, at)]
        counts = [every.count(expert) for expert in range(9)]
        assert row.experts == pytest.approx(len(every) / 10)
        assert row.activated == len(set(every))
        assert row.load_imbalance == pytest.approx(max(counts) / (sum(counts) / 9))
        assert row.weight == pytest.approx(np.mean([sum(weight_of(one, place, at).values()) for place in range(10)]))


def test_files_without_weights_say_nothing_of_them():
    tables, plain = told_routes([routes(weights_NLK=None), routes(1)])
    assert len(tables) == 3
    assert plain["files"][0]["layers"][0]["weight"] is None
    assert plain["agreement"]["mean"]["moved"] is None
    assert 0 < plain["agreement"]["mean"]["overlap"] < 1


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (routes(layers=[0, 1]), r"layers \[0, 2\] and \[0, 1\]"),
        (routes(experts=12), "experts per layer 9 and 12"),
        (routes(top_k=2), "slots 4 and 2"),
        (routes(lengths={"d": 3}), "in both files"),
        (routes(lengths={"a": 4, "b": 5}), "question a has others"),
    ],
)
def test_files_that_do_not_go_together_are_refused_in_one_line(other, said):
    with pytest.raises(DataError, match=said) as refused:
        told_routes([routes(), other])
    assert "\n" not in str(refused.value)


def test_a_question_of_other_tokens_is_refused():
    other = routes()
    other.token_N[4] += 1
    with pytest.raises(DataError, match="question b has others"):
        shared_tokens(routes(), other)
