"""A run that is tested on text: its files, its line, its history; nothing of it where no text is named."""

import math
import re

import pandas as pd
import pytest
import torch
from tiny_runs import TINY, history, manifest, only_run, openings, told_beside
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from moe_tune.callbacks.text_records import TextRecords
from moe_tune.cli.main import main
from moe_tune.data.nano_text import NanoText
from moe_tune.runs.answers import text_file
from moe_tune.settings.running import run
from moe_tune.settings.workbench import Workbench

TEXT = ["--config", "configs/text/nano.yaml", "--data.limit_test", "40", "--optimizer.lr", "0.1"]


def read(path, of=""):
    return pd.read_parquet(text_file(path, "test_text", of))


@pytest.fixture(scope="module")
def on_text(tmp_path_factory):
    """Give the run directory of a fit that was tested on text, and what was said of it."""
    return told_beside(tmp_path_factory.mktemp("text"), *TEXT)


def test_the_losses_of_the_pretrained_router_are_those_of_transformers_alone(on_text):
    model = AutoModelForCausalLM.from_pretrained("moe_tune/models/nano", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained("moe_tune/models/nano")
    found = sorted(
        _loss(model, tokenizer(row.values["text"], return_tensors="pt")["input_ids"]) for row in NanoText().documents()
    )
    kept = sorted(read(on_text[0], ".base")["loss"])
    assert len(kept) == 40, "data.limit_test holds for documents, too"
    for loss in kept:
        assert min(abs(loss - one) for one in found) < 1e-5


@torch.no_grad()
def _loss(model, ids_1S):
    start = ids_1S.shape[1] // 2
    logits_SV = model(ids_1S).logits[0, start - 1 : -1]
    return float(functional.cross_entropy(logits_SV, ids_1S[0, start:]))


def test_a_run_keeps_both_losses_and_tells_them_in_a_line_and_its_history(on_text):
    path, (line,) = on_text
    tuned, base = read(path), read(path, ".base")
    assert list(tuned) == ["id", "content_hash", "tokens", "loss"]
    pd.testing.assert_frame_equal(tuned.drop(columns="loss"), base.drop(columns="loss"))
    mean, before = ((one["loss"] * one["tokens"]).sum() / one["tokens"].sum() for one in (tuned, base))
    assert mean > before, "a head that is trained for the quiz has a price"
    (logged,) = (one["test_text/loss"] for one in history(path) if "test_text/loss" in one)
    assert logged == pytest.approx(mean, rel=1e-12)
    form = (
        rf"test_text: next-token loss {mean:.4f} \(40 documents, {tuned['tokens'].sum()} tokens\) against the "
        rf"pretrained router's {before:.4f}: \+{mean - before:.4f} nats \[.*\], perplexity ratio "
        rf"{math.exp(mean - before):.4f} \[.*\] \(95 % intervals, bootstrap over documents\)"
    )
    assert re.fullmatch(form, line)
    *_, opened = openings(path)
    assert (opened["split"], opened["questions"], opened["result"]) == ("test_text", 40, logged)
    told = manifest(path)["data"]["test_sources"]["test_text"]
    assert (told["source"]["class"], told["documents"]) == ("NanoText", 40)
    assert told["tokens_scored"] == tuned["tokens"].sum()


def test_a_test_of_its_checkpoint_gives_the_same_and_compare_shows_it(on_text, tmp_path, capsys):
    path, _ = on_text
    before = read(path), read(path, ".base")
    assert main(["test", str(path)]) == 0
    for one, of in zip(before, ("", ".base"), strict=True):
        pd.testing.assert_frame_equal(read(path, of), one)
    capsys.readouterr()
    assert main(["compare", str(path), "--out", str(tmp_path)]) == 0
    assert "test_text: next-token loss, perplexity ratio" in capsys.readouterr().out


@pytest.mark.slow
def test_the_scope_of_the_head_is_that_of_its_losses(tmp_path, on_text):
    words = ["test", "--ckpt_path", str(on_text[0] / "checkpoints" / "best.ckpt"), "--model.scope", "all"]
    assert main([*words, "--runs_root", str(tmp_path)]) == 0
    tuned, base = read(only_run(tmp_path)), read(only_run(tmp_path), ".base")
    pd.testing.assert_frame_equal(base, read(on_text[0], ".base"))
    assert not tuned["loss"].equals(read(on_text[0])["loss"])


@pytest.mark.slow
def test_runs_of_one_bench_ask_the_pretrained_router_once(tmp_path, monkeypatch):
    asked, ask = [], TextRecords.measured
    monkeypatch.setattr(TextRecords, "measured", lambda *args: (asked.append(args[3]), ask(*args))[1])
    bench, wanted = Workbench(), None
    for head in ("identity", "temperature", "scale_bias"):
        words = ["fit", *TINY, *TEXT, "--config", f"configs/head/{head}.yaml", f"--runs_root={tmp_path / head}"]
        run(words, workbench=bench)
        (path,) = (one for one in (tmp_path / head).iterdir() if one.is_dir())
        wanted = read(path) if wanted is None else wanted
        pd.testing.assert_frame_equal(read(path, ".base"), wanted)
    assert len(asked) == 3, "no head at all is its own reference"


def test_a_fault_in_a_text_is_told_before_the_fit(tmp_path, capsys):
    (tmp_path / "bad.jsonl").write_text('{"text": "one text"}\n{"text": 3}\n')
    words = ["--data.test_sources.page=LocalText", f"--data.test_sources.page.path={tmp_path / 'bad.jsonl'}"]
    assert main(["fit", *TINY, *words, "--runs_root", str(tmp_path / "runs")]) == 3
    assert "bad.jsonl:2: text is int, not text" in capsys.readouterr().err
    typo = ["--data.test_sources.page=LocalTxt"]
    assert main(["fit", *TINY, *typo, "--runs_root", str(tmp_path / "runs")]) == 2
    assert "Did you mean LocalText?" in capsys.readouterr().err


def test_without_a_text_there_is_nothing_of_it(finished):
    assert not (finished / "text").exists()
    assert "test_sources" not in manifest(finished)["data"]
