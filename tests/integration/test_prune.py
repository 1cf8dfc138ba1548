"""The verb ``prune``: nano with fewer experts, written, loaded by plain transformers, scored by lm-eval and tuned."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from tiny_runs import TINY, only_run
from transformers import AutoModelForCausalLM

from moe_tune import BaseModel
from moe_tune.cli.main import main
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.masked_experts import MaskedExperts
from moe_tune.models.families import family_of
from moe_tune.runs.ledger import ledger_folder

ANSWERS = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], experts_implementation="eager")
ids = AutoTokenizer.from_pretrained(sys.argv[1])("The capital of France is", return_tensors="pt").input_ids
with torch.no_grad():
    torch.save((ids, model(input_ids=ids).logits), sys.argv[2])
assert "moe_tune" not in sys.modules
"""


def prune(*words):
    assert main(["prune", *TINY, *words]) == 0


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """Give the folder of a nano model without 16 of its 64 experts."""
    folder = tmp_path_factory.mktemp("pruned") / "model"
    prune("--criterion", "Frequency", "--share", "0.25", "--out", str(folder))
    return folder


def test_a_pruned_nano_is_read_without_this_package(pruned, tmp_path):
    """And answers as the masked one does, to 1e-5."""
    command = [sys.executable, "-c", ANSWERS, str(pruned), str(tmp_path / "answers.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ids_BS, came = torch.load(tmp_path / "answers.pt")
    about = json.loads((pruned / "pruning.json").read_text())
    gone = {int(layer): some for layer, some in about["gone"].items()}
    assert {len(some) for some in gone.values()} == {16}
    model = BaseModel("nano", experts_implementation="eager").load()[0]
    GatedModel(model, family_of("olmoe"), MaskedExperts(gone), "all", "all")
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids_BS).logits, came, atol=1e-5, rtol=0)


def test_a_pruned_nano_is_smaller_and_its_figures_stand_beside_it(pruned):
    found = json.loads((pruned / "before_after.json").read_text())
    before, after = (found["costs"][key] for key in ("before", "after"))
    assert (before["experts"], after["experts"]) == (64, 48)
    assert after["disk_bytes"] == sum(file.stat().st_size for file in pruned.glob("*.safetensors"))
    assert after["disk_bytes"] < 0.8 * before["disk_bytes"]
    assert after["memory_bytes"] < 0.8 * before["memory_bytes"]
    assert min(one[key] for one in (before, after) for key in ("tokens_per_second", "step_seconds")) > 0
    assert [one["name"] for one in found["sets"]] == ["validation"]
    assert found["sets"][0]["ci95"][0] <= found["sets"][0]["diff"] <= found["sets"][0]["ci95"][1]
    assert "## What it still can" in (pruned / "before_after.md").read_text()


def test_every_verb_takes_it_for_a_base_model(pruned, tmp_path):
    assert main(["fit", *TINY, "--model.base.path", str(pruned), "--runs_root", str(tmp_path)]) == 0
    run = only_run(tmp_path)
    assert json.loads((run / "manifest.json").read_text())["status"] == "finished"
    figures = json.loads((pruned / "before_after.json").read_text())["sets"][0]
    base = pd.read_parquet(run / "questions" / "validation.base.parquet")
    assert (base["gold"] == base["prediction"]).mean() == pytest.approx(figures["after"])


def test_lm_eval_scores_it_as_its_own_hf_model(pruned, tmp_path):
    pytest.importorskip("lm_eval")
    from harness_tasks import DOCUMENTS, write_tasks
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(write_tasks(tmp_path)), include_defaults=False)
    arguments = f"pretrained={pruned},dtype=float32"
    found = simple_evaluate(
        "hf", arguments, tasks=["nano_letters"], task_manager=manager, bootstrap_iters=0, device="cpu"
    )
    assert len(found["samples"]["nano_letters"]) == DOCUMENTS
    assert 0 <= found["results"]["nano_letters"]["acc,none"] <= 1


def test_a_mask_is_a_configuration_that_answers_as_the_smaller_model(pruned, tmp_path, capsys):
    words = ["--criterion", "Frequency", "--share", "0.25", "--how", "mask", "--out", str(tmp_path / "mask")]
    prune(*words, "--format", "json")
    found = json.loads(capsys.readouterr().out)
    removed = json.loads((pruned / "before_after.json").read_text())
    assert found["sets"][0]["after"] == removed["sets"][0]["after"]
    assert found["costs"]["after"]["experts"] == 48
    assert found["costs"]["after"]["disk_bytes"] == found["costs"]["before"]["disk_bytes"]
    config = yaml.safe_load((tmp_path / "mask" / "masked.yaml").read_text())
    assert {len(some) for some in config["model"]["head"]["init_args"]["experts"].values()} == {16}
    words = ["--config", str(tmp_path / "mask" / "masked.yaml"), "--runs_root", str(tmp_path / "runs")]
    assert main(["validate", *TINY, *words]) == 0
    answers = pd.read_parquet(only_run(tmp_path / "runs") / "questions" / "validation.parquet")
    assert (answers["gold"] == answers["prediction"]).mean() == pytest.approx(found["sets"][0]["after"])


def test_text_generation_and_the_test_split_are_judged_and_tests_recorded(tmp_path):
    words = ["--criterion", "Reap", "--count", "8", "--top_k", "6", "--how", "mask", "--scope", "answer", "--test"]
    words += ["--config", "configs/task/next_token.yaml", "--model.task", "quiz", "--data.text.source.documents", "60"]
    words += ["--data.test_sources.short", "NanoShortAnswers", "--out", str(tmp_path / "mask")]
    known = {file: len(file.read_text().splitlines()) for file in ledger_folder().glob("*.jsonl")}
    prune(*words)
    sets = {one["name"]: one for one in json.loads((tmp_path / "mask" / "before_after.json").read_text())["sets"]}
    kinds = {name: one["kind"] for name, one in sets.items()}
    assert kinds == {
        "validation": "questions",
        "test": "questions",
        "test_nano_textbook": "questions",
        "text": "text",
        "test_text": "text",
        "test_short": "generation",
    }
    assert all(one["after"] > 0 for one in sets.values())
    lines = [
        json.loads(line)
        for file in ledger_folder().glob("*.jsonl")
        for line in file.read_text().splitlines()[known.get(file, 0) :]
    ]
    assert {(one["split"], one["verb"]) for one in lines} == {
        (name, "prune") for name in kinds if name.startswith("test")
    }
    assert len(lines) == 2 * 4, "before and after"
    head = yaml.safe_load((tmp_path / "mask" / "masked.yaml").read_text())["model"]["head"]
    assert head["init_args"]["parts"]["fewer"] == {"class_path": "FixedKHead", "init_args": {"k": 6}}


def test_a_test_that_was_read_is_recorded_although_the_pruning_fails(tmp_path, monkeypatch):
    def fails(*args):
        raise RuntimeError("power cut")

    known = {file: len(file.read_text().splitlines()) for file in ledger_folder().glob("*.jsonl")}
    monkeypatch.setattr("moe_tune.pruning.prune.smaller_model", fails)
    words = ["--criterion", "AtRandom", "--criterion.seed", "5", "--count", "8", "--test", "--out", str(tmp_path / "m")]
    assert main(["prune", *TINY, *words]) != 0
    lines = [
        json.loads(line)
        for file in ledger_folder().glob("*.jsonl")
        for line in file.read_text().splitlines()[known.get(file, 0) :]
    ]
    assert sorted(one["split"] for one in lines) == ["test", "test_nano_textbook"]


def test_k_is_lowered_in_the_folder(tmp_path):
    words = ["--criterion", "AtRandom", "--criterion.seed", "3", "--count", "60", "--top_k", "2"]
    prune(*words, "--out", str(tmp_path / "model"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert (model.config.num_experts, model.config.num_experts_per_tok) == (4, 2)
    assert json.loads((tmp_path / "model" / "pruning.json").read_text())["criterion"] == {"name": "AtRandom", "seed": 3}


MISTAKES = {
    "no criterion": ([], "expected a criterion but got none"),
    "unknown criterion": (["--criterion", "Frequencey"], "Did you mean Frequency?"),
    "no number": (["--criterion", "Frequency"], "expected how many experts go"),
    "too many": (["--criterion", "Frequency", "--count", "57"], "expected at most 56 of 64"),
    "nothing held out": (
        ["--criterion", "Frequency", "--count", "8", "--split", "validation"],
        "expected other questions than those that experts are chosen on",
    ),
    "quantised": (["--criterion", "Frequency", "--count", "8", "--model.base.quantise", "8"], "prune first"),
    "standing folder": (["--criterion", "Frequency", "--count", "8", "--out", "configs"], "does not exist yet"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(mistake, tmp_path, capsys):
    words, message = MISTAKES[mistake]
    out = [] if "--out" in words else ["--out", str(tmp_path / "model")]
    assert main(["prune", *TINY, *words, *out]) in (2, 4)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("how", ["remove", "mask"])
def test_a_repair_learns_from_the_model_before_and_says_what_came_back(how, tmp_path, monkeypatch):
    """At random half the experts go, so that there is something to bring back; text shows it."""
    monkeypatch.chdir(tmp_path)
    root = Path(__file__).parents[2] / "configs"
    words = ["--config", str(root / "task/next_token.yaml"), "--data.text.source.documents", "300"]
    words += ["--data.text.source.layout", "nano_textbook"]
    words += ["--model.scope", "all", "--optimizer.lr", "0.01", "--trainer.max_epochs", "3"]
    tiny = [str(root.parent / one) if one.startswith("configs/") else one for one in TINY]
    words += ["--criterion", "AtRandom", "--share", "0.5", "--how", how, "--repair", "text", "--out", "model"]
    assert main(["prune", *tiny, *words]) == 0
    found = json.loads(Path("model/before_after.json").read_text())
    lost = {one["name"]: one["diff"] for one in found["sets"]}
    back = {one["pair"]["name"]: one for one in found["repaired"]}
    assert lost["text"] > 0.05, "pruning at random harms the text"
    assert back["text"]["pair"]["diff"] < 0, "and the repair brings some of it back"
    assert back["text"]["back"]["share"] == pytest.approx(-back["text"]["pair"]["diff"] / lost["text"], rel=1e-6)
    low, high = back["text"]["back"]["ci95"]
    assert 0 < low <= back["text"]["back"]["share"] <= high
    assert "What repair brings back" in Path("model/before_after.md").read_text()
    again = yaml.safe_load(Path("model/repair.yaml").read_text())
    assert again["model"]["task_weight"] == 0
    assert (again["model"]["teacher"] is None) == (how == "mask")


def test_a_repair_on_text_needs_text(capsys, tmp_path):
    words = ["--criterion", "AtRandom", "--share", "0.5", "--repair", "text", "--out", str(tmp_path / "model")]
    assert main(["prune", *TINY, *words]) == 2
    assert "expected text to repair on but got none" in capsys.readouterr().err


def test_effects_of_the_questions_that_judge_are_refused(tmp_path, capsys):
    rows = [{"layer": layer, "expert": one, "effect": float(one)} for layer in range(4) for one in range(64)]
    for split, code in (("validation", 2), ("train", 0)):
        pd.DataFrame(rows).assign(split=split).to_parquet(tmp_path / f"{split}.parquet")
        words = ["--criterion", "MaskingEffect", "--criterion.file", str(tmp_path / f"{split}.parquet"), "--count", "8"]
        assert main(["prune", *TINY, *words, "--out", str(tmp_path / split)]) == code
        assert ("what was measured on train questions" in capsys.readouterr().err) == bool(code)
    gone = json.loads((tmp_path / "train" / "pruning.json").read_text())["gone"]
    assert gone == {str(layer): list(range(56, 64)) for layer in range(4)}, "those whose masking helped most"


def test_a_smaller_model_loses_equally_many_of_each_layer_and_says_what_stays(tmp_path):
    for how in ("mask", "remove"):
        prune("--criterion", "NeverActivated", "--how", how, "--out", str(tmp_path / how))
    many, few = (json.loads((tmp_path / how / "pruning.json").read_text())["gone"] for how in ("mask", "remove"))
    least = min(map(len, many.values()))
    assert {len(some) for some in few.values()} == {least}
    assert all({*few[layer]} <= {*many[layer]} for layer in many)
    assert len({len(some) for some in many.values()}) > 1, "else there is nothing to even"
    total = sum(map(len, many.values()))
    assert f"Of {total} experts that may go {4 * least} do" in (tmp_path / "remove" / "before_after.md").read_text()
    assert "may go" not in (tmp_path / "mask" / "before_after.md").read_text()
