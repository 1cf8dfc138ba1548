"""lm-eval's model with heads on: where they act, whatever the batch, and what a stock model with that gate says."""

import math

import pytest
import torch

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from moe_tune import BaseModel, GatedModel
from moe_tune.harness.gated_lm import NAME, GatedLM
from moe_tune.harness.kept_tasks import KeptTasks
from moe_tune.heads.guard import Guard
from moe_tune.heads.retuned import RetunedHead

PAIRS = (
    ("The capital of France is", " the capital of Spain."),
    ("What is 13 + 29?\nA. 42\nB. 3\nAnswer:", " A"),
    ("What is 13 + 29?\nA. 42\nB. 3\nAnswer:", " B"),
    ("Answer:", " 42 is the capital of"),
    ("", "What is 13"),
)
SPLIT_ELSEWHERE = (("What is 13", " + 29?"), ("What is 13 +", " 29?"), ("What is", " 13 + 29?"))


@pytest.fixture(scope="module")
def base():
    return BaseModel("nano", experts_implementation="eager")


@pytest.fixture
def loaded(base):
    return base.load()


def tuned(loaded, scope, head=None):
    gated = GatedModel(*loaded, head or RetunedHead(), "last-2", scope)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, weight in sorted(gated.trainable().items()):
            weight.add_(0.3 * torch.randn(weight.shape, generator=draw))
    return gated


def asked(gated, base, size, base_only=False):
    tasks = KeptTasks(None, None)
    options = {"base_path": "nano", "base_only": base_only, "batch_size": size}
    return GatedLM(gated, base.load_tokenizer(), tasks, **options)


def requests(kind, given):
    return [Instance(kind, {}, one, place, ("", place, 1)) for place, one in enumerate(given)]


def scores(model, pairs=PAIRS):
    return torch.tensor([one for one, _ in model.loglikelihood(requests("loglikelihood", pairs), True)])


def one_token_at_a_time(gated, base, pairs):
    """Score continuations with a cache: the prompt but its last token by the pretrained routers, the rest by heads."""
    tokenizer, found = base.load_tokenizer(), []
    for prompt, continuation in pairs:
        whole = tokenizer.encode(prompt + continuation) if prompt else [2, *tokenizer.encode(continuation)]
        start = len(tokenizer.encode(prompt)) if prompt else 1
        cache, total = None, 0.0
        with torch.no_grad():
            if start > 1:
                with gated.session(base_only=True):
                    cache = gated.model(torch.tensor([whole[: start - 1]]), use_cache=True).past_key_values
            for place in range(start - 1, len(whole) - 1):
                out = gated.model(torch.tensor([[whole[place]]]), past_key_values=cache, use_cache=True)
                cache = out.past_key_values
                total += float(out.logits[0, -1].log_softmax(-1)[whole[place + 1]])
        found.append(total)
    return torch.tensor(found)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_at_scope_answer_heads_act_on_the_last_prompt_token_and_every_one_that_predicts(loaded, base, size):
    gated = tuned(loaded, "answer")
    came = scores(asked(gated, base, size))
    assert torch.allclose(came, one_token_at_a_time(gated, base, PAIRS), atol=1e-4)
    with gated.session(scope="all"):
        assert not torch.allclose(came, scores(asked(gated, base, size)), atol=1e-2)
    assert not torch.allclose(came, scores(asked(gated, base, size, base_only=True)), atol=1e-2)


def test_the_same_tokens_with_other_prompts_are_other_requests(loaded, base):
    gated = tuned(loaded, "answer")
    together = scores(asked(gated, base, 3), SPLIT_ELSEWHERE)
    assert torch.allclose(together, one_token_at_a_time(gated, base, SPLIT_ELSEWHERE), atol=1e-4)
    alone = [float(scores(asked(gated, base, 1), [one])) for one in SPLIT_ELSEWHERE]
    assert torch.allclose(together, torch.tensor(alone), atol=1e-5)


@pytest.mark.parametrize("scope", ["answer", "all"])
def test_a_head_that_chooses_decides_at_the_last_prompt_token_whatever_the_batch(loaded, base, scope):
    gated = tuned(loaded, scope, Guard(RetunedHead()))
    first = gated.heads[min(gated.heads)]
    first.guard_rest.fill_(1.0)
    found = {}
    for threshold in (0.0, math.inf, 60.0):
        first.guard_threshold.fill_(threshold)
        found[threshold] = scores(asked(gated, base, 1))
        assert torch.allclose(found[threshold], scores(asked(gated, base, 5)), atol=1e-4)
    assert torch.allclose(found[0.0], scores(asked(gated, base, 1, base_only=True)), atol=1e-5)
    acts = (found[60.0] - found[math.inf]).abs() < 1e-4
    assert 0 < acts.sum() < len(PAIRS)
    assert torch.allclose(found[60.0], torch.where(acts, found[math.inf], found[0.0]), atol=1e-4)


def test_base_is_lm_evals_own_model_to_the_last_bit(loaded, base):
    stock = HFLM(base.load()[0], tokenizer=base.load_tokenizer(), batch_size=3)
    model = asked(tuned(loaded, "all"), base, 3, base_only=True)
    assert torch.equal(scores(model), scores(stock))
    texts = requests("loglikelihood_rolling", [(prompt + more,) for prompt, more in PAIRS])
    assert model.loglikelihood_rolling(texts, True) == stock.loglikelihood_rolling(texts, True)
    said = requests("generate_until", [(one, {"until": ["\n"], "max_gen_toks": 8}) for one, _ in PAIRS[:4]])
    assert model.generate_until(said, True) == stock.generate_until(said, True)


def test_padding_is_no_token_of_anybodys(loaded, base):
    gated = tuned(loaded, "all")
    model = asked(gated, base, len(PAIRS))
    scores(model)
    tokens = {(*a, *b[:-1]) for a, b in (model._encode_pair(*one) for one in PAIRS[:4])}
    tokens.add((0, *model.tok_encode(PAIRS[4][1])[:-1]))
    assert int(gated.trace.mask("all").sum()) == sum(map(len, tokens))
    assert not gated.trace.mask("all").all()


def test_it_is_registered(loaded, base):
    from lm_eval.api.registry import get_model

    assert get_model(NAME) is GatedLM
