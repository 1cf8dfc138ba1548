"""The verb ``lm-eval``: every kind of task, base and tuned in one go, and its samples in a comparison."""

import json
from functools import partial

import pandas as pd
import pytest
from safetensors.torch import load_file

pytest.importorskip("lm_eval")

from harness_tasks import DOCUMENTS, TASKS, samples, write_tasks
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from moe_tune import BaseModel
from moe_tune.cli.main import main
from moe_tune.models.families import family_of

EAGER = ["--model.base.experts_implementation", "eager"]
TUNED = ["--optimizer.lr", "0.02", "--test_after_fit", "false", *EAGER]


@pytest.fixture(scope="module", autouse=True)
def without_lm_evals_own_tasks():
    """Leave out its 14,000 files, which it reads anew with every command for ten seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm_eval.tasks.TaskManager", partial(TaskManager, include_defaults=False))
        yield


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, fit):
    return fit(tmp_path_factory.mktemp("all"), "--model.scope", "all", *TUNED)


@pytest.fixture(scope="module")
def at_answer(tmp_path_factory, fit):
    return fit(tmp_path_factory.mktemp("answer"), *TUNED)


@pytest.fixture(scope="module")
def evaluated(run, tasks):
    """Give the folders of base and tuned after the verb."""
    assert main(["lm-eval", str(run), *of(tasks)]) == 0
    return run / "lm_eval" / "nano", run / "lm_eval" / run.name


def of(tasks, *names):
    chosen = names or TASKS
    return ["--tasks", ",".join(chosen), "--include_path", str(tasks), "--batch_size", "5"]


def of_lm_eval(model, tasks):
    """Return the samples of lm-eval's own model of transformers."""
    own = HFLM(model, tokenizer=BaseModel("nano").load_tokenizer(), batch_size=5)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    return simple_evaluate(own, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0)["samples"]


def answers(rows):
    """Return what was answered, a row for each document: numbers as numbers."""
    rows = sorted(rows, key=lambda row: row["doc_id"])
    flat = [[part for one in row["resps"] for part in _flat(one)] for row in rows]
    return pd.DataFrame([[_number(part) for part in row] for row in flat])


def _flat(value):
    return [part for one in value for part in _flat(one)] if isinstance(value, list | tuple) else [value]


def _number(part):
    try:
        return float(str(part))
    except ValueError:
        return str(part)


def test_base_is_lm_evals_own_hf_on_every_sample(evaluated, tasks):
    own = of_lm_eval(BaseModel("nano", experts_implementation="eager").load()[0], tasks)
    for task in TASKS:
        base = samples(evaluated[0], task)
        assert len(base) == DOCUMENTS
        pd.testing.assert_frame_equal(answers(base), answers(own[task]), check_exact=True)
        assert [row["prompt_hash"] for row in base] == [row["prompt_hash"] for row in own[task]]


def test_a_retuned_head_at_all_tokens_is_a_stock_model_with_that_gate(evaluated, run, tasks):
    model = BaseModel("nano", experts_implementation="eager").load()[0]
    family, kept = family_of("olmoe"), load_file(run / "checkpoints" / "best.ckpt" / "router.safetensors")
    for name, weight in kept.items():
        block = family.moe_layers(model)[int(name.split(".")[1])]
        block.get_submodule(family.gate_path).weight.data.copy_(weight)
    stock = of_lm_eval(model, tasks)
    changed = 0
    for task in TASKS:
        base, tuned = (answers(samples(folder, task)) for folder in evaluated)
        pd.testing.assert_frame_equal(tuned, answers(stock[task]), rtol=1e-4, atol=1e-4)
        changed += not tuned.equals(base)
    assert changed == len(TASKS)


def test_what_is_printed_and_written_is_lm_evals(evaluated, run, tasks, tmp_path, capsys):
    assert main(["lm-eval", str(run), *of(tasks, "nano_letters"), "--out", str(tmp_path), "--limit", "5"]) == 0
    told = capsys.readouterr().out
    (command,) = (line.removeprefix("next: ") for line in told.splitlines() if line.startswith("next: "))
    (results,) = (tmp_path / run.name).glob("results_*.json")
    kept = json.loads(results.read_text())
    assert f"{kept['results']['nano_letters']['acc,none']:.4f}" in told
    assert kept["n-samples"]["nano_letters"] == {"original": DOCUMENTS, "effective": 5}
    assert kept["config"]["moe_tune"]["scope"] == "all"
    assert command.split()[3:] == [
        "compare",
        *map(str, sorted(tmp_path.glob("*/samples_*"), key=lambda f: len(str(f)))),
    ]
    first, whole = (answers(samples(folder, "nano_letters")) for folder in (tmp_path / "nano", evaluated[0]))
    pd.testing.assert_frame_equal(first, whole[:5], rtol=1e-4)  # other rows beside them in a batch


@pytest.mark.parametrize("task", ["nano_letters", "nano_choices", "nano_said"])
def test_compare_pairs_base_and_tuned_sample_by_sample(evaluated, task, tmp_path, capsys):
    files = [str(next(folder.glob(f"samples_{task}_*"))) for folder in evaluated]
    assert main(["compare", *files, "--out", str(tmp_path)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    metric = "exact_match" if task == "nano_said" else "acc"
    base, tuned = ([row[metric] for row in samples(folder, task)] for folder in evaluated)
    flips = pd.read_csv(tmp_path / "flips.csv")
    assert len(flips) == sum(one != other for one, other in zip(base, tuned, strict=True)) > 0
    assert f"{100 * sum(tuned) / DOCUMENTS:.2f}" in told
    assert "model.base" not in told, "both are of one base model"


def test_several_runs_share_the_base_and_act_at_their_scopes(run, at_answer, evaluated, tasks, tmp_path):
    names = ["nano_letters", "nano_said"]
    assert main(["lm-eval", str(run), str(at_answer), *of(tasks, *names), "--out", str(tmp_path)]) == 0
    assert {one.name for one in tmp_path.iterdir()} == {"nano", run.name, at_answer.name}
    for task in names:
        for folder in evaluated:
            assert answers(samples(tmp_path / folder.name, task)).equals(answers(samples(folder, task)))
        found = [answers(samples(tmp_path / name, task)) for name in ("nano", run.name, at_answer.name)]
        assert not found[2].equals(found[0])
        assert not found[2].equals(found[1])


def test_mistakes_are_told_before_anything_is_written(run, at_answer, tasks, tmp_path, capsys, monkeypatch):
    one = of(tasks, "nano_letters")
    long = ["--gen_kwargs", "max_gen_toks=1000"]
    for words, code, said in (
        ([str(at_answer), *of(tasks)], 2, "nano_rolling"),
        ([str(run), *of(tasks, "nano_said"), *long], 3, "context of 1024 tokens"),
        ([str(run), *of(tasks, "nano_leters")], 2, "Did you mean nano_letters?"),
        ([str(run), *one, "--limt", "2"], 2, "Did you mean --limit?"),
        ([str(run), *one, "--samples", '{"nano_letters": [1]}', "--limit", "2"], 2, "--limit must be None"),
        ([str(run)], 2, "--tasks"),
        ([str(run), str(run), *one], 2, "twice"),
        ([str(run.parent / "nope"), *one], 3, "expected a run directory"),
        ([str(run), *one, "--apply_chat_template"], 3, "chat"),
        ([str(run), *one, "--limit", "-3"], 2, "--limit"),
        ([str(run), *one, "--batch_size", "0"], 2, "--batch_size"),
        ([str(run), *one, "--include_path", str(tmp_path / "none")], 2, "--include_path"),
        ([str(run), *one, "--device", "banana"], 2, "--device"),
    ):
        assert main(["lm-eval", *words, "--out", str(tmp_path / "out")]) == code, words
        told = capsys.readouterr().err
        (line,) = (one for one in told.splitlines() if one.startswith("moe_tune: "))
        assert said in line
        assert not (tmp_path / "out").exists()
    monkeypatch.setattr("moe_tune.harness.installed.VERSION", "9.9")
    assert main(["lm-eval", str(run), *one]) == 2
    assert "pip install 'lm-eval[hf]==9.9'" in capsys.readouterr().err
