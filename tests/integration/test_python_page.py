"""The page about Python: its code runs as it stands, and says what it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import moe_tune
from moe_tune.heads.retuned import RetunedHead

ROOT = Path(__file__).parents[2]


def test_the_code_of_the_page_runs(fit, tmp_path, capsys, monkeypatch):
    run = fit(tmp_path, "--optimizer.lr", "0.01", "--test_after_fit", "false")
    monkeypatch.chdir(tmp_path)
    names = {"run": run}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.S):
        exec(block, names)
    trained, base = names["trained"], names["base"]
    assert {type(head) for head in trained.heads.values()} == {RetunedHead}
    moved = (head.weight - trained.gates[layer].pretrained[0] for layer, head in trained.heads.items())
    assert all(difference.abs().max() > 0 for difference in moved)
    assert not torch.equal(names["tuned"].weights_TK, names["pretrained"].weights_TK)
    with torch.no_grad():
        stock, _ = base.load()
        assert torch.equal(stock(names["tokens_BS"]).logits, names["gated"].model(names["tokens_BS"]).logits)
    assert len(names["routing"]) == 2 * 4 * 64
    assert len(capsys.readouterr().out.splitlines()) >= 3


def test_the_names_come_when_they_are_asked_for():
    said = "import sys, moe_tune; print('torch' in sys.modules); moe_tune.GatedModel; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["False", "True"]
    assert {"BaseModel", "GatedModel", "compare_runs", "evaluate", "load_head", "quiz", "trace"} <= set(dir(moe_tune))
    with pytest.raises(AttributeError, match="no_such"):
        _ = moe_tune.no_such
