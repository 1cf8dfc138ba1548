"""The verb ``generate``: texts of base and tuned side by side, where they part, and their traces."""

import json

import pandas as pd
import pytest
import torch

from moe_tune import BaseModel
from moe_tune.cli.main import main

PROMPTS = ("The capital of France is", "What is 13 + 29?", "hot : cold", "even", "Answer:")
EAGER = ["--model.base.experts_implementation", "eager", "--test_after_fit", "false", "--optimizer.lr", "0.02"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, fit):
    """Give a run at each scope."""
    return [fit(tmp_path_factory.mktemp(one), "--model.scope", one, *EAGER) for one in ("answer", "all")]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    file = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    file.write_text("\n".join(PROMPTS))
    return file


def generated(out):
    return json.loads((out / "generate.json").read_text())


def test_texts_of_both_scopes_beside_the_stock_models(runs, file, tmp_path, capsys):
    words = ["--prompts", str(file), "--max_new_tokens", "10", "--out", str(tmp_path)]
    assert main(["generate", *map(str, runs), *words]) == 0
    told, kept = capsys.readouterr().out, generated(tmp_path)
    base = BaseModel("nano", experts_implementation="eager")
    model, tokenizer = base.load()[0], base.load_tokenizer()
    texts = []
    for prompt, one in zip(PROMPTS, kept["prompts"], strict=True):
        row = torch.tensor([tokenizer.encode(prompt)])
        stock = model.generate(row, attention_mask=torch.ones_like(row), max_new_tokens=10, do_sample=False)
        said = one["models"]
        assert said["base"]["ids"] == stock[0, row.shape[1] :].tolist()
        for run in runs:
            ids, shared = said[run.name]["ids"], said[run.name]["shared"]
            assert said[run.name]["parts"] == (ids != said["base"]["ids"])
            if shared is not None:
                assert ids[:shared] == said["base"]["ids"][:shared]
                assert ids[shared : shared + 1] != said["base"]["ids"][shared : shared + 1]
        texts.append([said[name]["text"] for name in ("base", *(run.name for run in runs))])
    assert all(len({row[place] for row in texts}) > 1 for place in range(3)), "each says something of its own"
    assert len({tuple(column) for column in zip(*texts, strict=True)}) == 3
    assert "‖" in told
    page = (tmp_path / "generate.html").read_text()
    assert page.count('alt="Weight by token') == 4 * 3
    assert "<mark>‖" in page
    trace = pd.read_csv(tmp_path / f"trace-1-{runs[0].name}" / "trace.csv")
    assert set(trace["router"]) == {"base", "tuned"}
    assert trace["position"].max() + 1 == kept["prompts"][0]["prompt_tokens"] + 10
    assert set(pd.read_csv(tmp_path / "trace-1-base" / "trace.csv")["router"]) == {"base"}
    assert not (tmp_path / "trace-5-base").exists()


def test_one_prompt_drawn_twice_is_the_same(runs, tmp_path, capsys):
    words = ["--max_new_tokens", "8", "--temperature", "1"]
    for seed in (3, 3, 4):
        assert main(["generate", str(runs[0]), PROMPTS[0], *words, "--seed", str(seed)]) == 0
        (tmp_path / f"{len([*tmp_path.iterdir()])}.json").write_text(
            (runs[0] / "generate" / "generate.json").read_text()
        )
    first, again, other = (json.loads((tmp_path / f"{place}.json").read_text()) for place in range(3))
    assert first == again
    assert first["prompts"] != other["prompts"]
    assert "tuned" in capsys.readouterr().out


def test_mistakes_are_told_in_one_line(runs, file, tmp_path, capsys):
    run = str(runs[0])
    for words, code, said in (
        ([], 2, "RUN"),
        ([run], 2, "runs and then a prompt"),
        ([run, run], 2, "runs and then a prompt"),
        ([run, "of " * 1000], 3, "prompt 1 has 1000"),
        ([run, "of", "--max_new_tokens", "2000"], 3, "context of 1024"),
        ([run, "of", "--temperature", "-1"], 2, "--temperature"),
        ([run, "of", "--tempertaure", "1"], 2, "Did you mean --temperature?"),
        ([], 2, '"PROMPT"'),
        ([run, "The", "capital", "is"], 2, f"quote it: python -m moe_tune generate {run} 'The capital is'"),
        ([run, "of", "--prompts", str(file)], 2, "give a prompt or --prompts, not both"),
        ([run, "of", "--temp", "1"], 2, "a known option but got '--temp'"),
        ([f"{run}x", "of", "--max_new_tokens", "0"], 2, "at least 1 new token"),
        ([run, "--prompts", str(tmp_path / "none.txt")], 3, "No such file"),
        ([f"{run}x", "of"], 3, "expected a run directory"),
        ([run, run, "--prompts", str(file)], 2, "twice"),
    ):
        assert main(["generate", *words, "--out", str(tmp_path / "out")]) == code, words
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
        assert not (tmp_path / "out").exists()
