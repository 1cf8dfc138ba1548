"""A prompt's trace: what the routers did, base beside tuned, and nothing else."""

import numpy as np
import pandas as pd
import pytest
import torch

from moe_tune import BaseModel, GatedModel, trace
from moe_tune.analysis.trace_files import continuation_table, token_table, write_trace
from moe_tune.base.errors import DataError
from moe_tune.heads.identity import IdentityHead
from moe_tune.heads.retuned import RetunedHead
from moe_tune.heads.temperature import TemperatureHead

PROMPT = "Question : The capital of"
KEYS = ["position", "layer", "rank", "expert", "weight", "entropy"]


@pytest.fixture(scope="module")
def traced():
    """Return a function that traces a prompt under a head, and the model's own logits and routing."""
    base = BaseModel("nano")
    tokenizer = base.load_tokenizer()
    model, family = base.load()

    def run(head, prompt=PROMPT, layers="last-2", shift=0.0):
        gated = GatedModel(model, family, head, layers, "all")
        for weight in gated.trainable().values():
            weight.data += shift * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        try:
            seen = trace(gated, tokenizer, prompt)
            ids = torch.tensor([tokenizer.encode(prompt)])
            with torch.no_grad():
                logits_V = gated(ids)[0]
            return seen, gated.trace, logits_V
        finally:
            gated.detach()

    return run


def of(seen, router):
    return seen.routing[seen.routing["router"] == router].reset_index(drop=True)[KEYS]


def test_under_the_identity_tuned_is_base(traced):
    seen, _, _ = traced(IdentityHead())
    pd.testing.assert_frame_equal(of(seen, "base"), of(seen, "tuned"), check_exact=True)
    assert (seen.table()[["changed", "moved"]] == 0).all(axis=None)


def test_it_says_what_the_model_did(traced):
    seen, wanted, logits_V = traced(TemperatureHead(tau=0.5))
    tuned = of(seen, "tuned")
    for layer, output in wanted.outputs.items():
        rows = tuned[tuned["layer"] == layer]
        assert rows["expert"].tolist() == output.experts_TK.flatten().tolist()
        assert np.allclose(rows["weight"], output.weights_TK.flatten(), rtol=1e-5)
    likeliest = seen.continuations.query("router == 'tuned'")["probability"]
    assert likeliest.to_numpy() == pytest.approx(logits_V.softmax(-1).topk(5).values.numpy(), rel=1e-4)


def test_layers_without_a_head_are_those_of_the_base_before_the_first_tuned_one(traced):
    seen, _, _ = traced(TemperatureHead(tau=0.2))
    below = [of(seen, router).query("layer < 2") for router in ("base", "tuned")]
    pd.testing.assert_frame_equal(*below, check_exact=True)
    assert not of(seen, "base").query("layer >= 2").equals(of(seen, "tuned").query("layer >= 2"))


def test_moved_weight_is_at_most_what_there_was_and_charts_hold_every_weight(traced):
    seen, _, _ = traced(RetunedHead(), layers=[3], shift=0.1)
    table = seen.table()
    assert table["changed"].between(0, 1).all()
    assert (table["changed"] > 0).any()
    total = of(seen, "base").groupby(["position", "layer"])["weight"].sum().groupby("position").mean().to_numpy()
    assert (table["moved"].to_numpy() <= total + 1e-6).all()
    for layer, pair in seen.charts().items():
        for router, chart in zip(("base", "tuned"), pair, strict=True):
            rows = of(seen, router).query(f"layer == {layer}")
            assert chart.marks[0].value_LE.sum() == pytest.approx(rows["weight"].sum())


def test_files_and_tables(traced, tmp_path):
    seen, _, _ = traced(IdentityHead())
    write_trace(seen, tmp_path, {"prompt": "<b>" + PROMPT})
    assert (tmp_path / "trace.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "trace.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;" in page
    assert "<b>Question" not in page
    kept = pd.read_csv(tmp_path / "trace.csv")
    assert len(kept) == len(seen.routing)
    assert len(list(token_table(seen).rows())) == len(seen.tokens)
    assert [len(column.cells) for column in continuation_table(seen).columns] == [5] * 4


def test_a_copy_of_the_base_is_left_out_and_a_tuned_router_is_not(traced, tmp_path):
    alone = traced(IdentityHead())[0].without_copy()
    assert list(alone.routers) == ["base"]
    for table, headers in (
        (token_table(alone), ["token", "entropy, base"]),
        (continuation_table(alone), ["base", "base, %"]),
    ):
        assert [column.header for column in table.columns] == headers
    assert "Changed" not in token_table(alone).caption
    write_trace(alone, tmp_path, {"prompt": PROMPT})
    assert set(pd.read_csv(tmp_path / "trace.csv")["router"]) == {"base"}
    assert "tuned routers" not in (tmp_path / "trace.html").read_text(encoding="utf-8")
    seen = traced(TemperatureHead(tau=0.5))[0]
    assert seen.without_copy() is seen


@pytest.mark.parametrize("prompt", ["", "of " * 5000])
def test_a_prompt_has_tokens_and_fits(traced, prompt):
    with pytest.raises(DataError, match="tokens but got"):
        traced(IdentityHead(), prompt)
