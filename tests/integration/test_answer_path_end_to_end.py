"""The answer path through the whole program: exact, kept, reused, streamed above the limit, and switched off."""

import json
import shutil
from functools import cache

import pandas as pd
import pytest
import torch
from lightning.pytorch import Trainer
from tiny_runs import QUIET, TINY, history, manifest, routing, same_weights
from tolerances import rounding_of

from moe_tune.answer_path.settings import AnswerPath
from moe_tune.base.errors import ConfigError
from moe_tune.cli.main import main
from moe_tune.data.module import QuizDataModule
from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.heads.accuracy_bias import AccuracyBiasHead
from moe_tune.heads.retuned import RetunedHead
from moe_tune.heads.temperature import TemperatureHead
from moe_tune.losses.load_balance import LoadBalanceLoss
from moe_tune.models.base_model import BaseModel
from moe_tune.tuner.router_tuner import RouterTuner


def tuner(folder, head=None, losses=None, layers="last-2", scope="answer", **settings):
    base = BaseModel("nano", experts_implementation="eager")
    answer_path = AnswerPath(folder=str(folder), **settings)
    return RouterTuner(base, head or RetunedHead(), losses or {}, layers, scope, answer_path=answer_path)


def quiz(**changes):
    settings = {"limit_train": 60, "limit_validation": 40, "limit_test": 40, "batch_size": 16}
    return QuizDataModule(NanoQuiz(), "nano_quiz", **{**settings, **changes})


def trainer():
    return Trainer(accelerator="cpu", max_epochs=1, num_sanity_val_steps=0, **QUIET)


def fitted(folder, data=None, **settings):
    """Return a tuner after an epoch of plain gradient descent, and what the epoch's validation gave."""
    one = tuner(folder, **settings)
    one.make_optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.3)
    runner = trainer()
    runner.fit(one, datamodule=data or quiz())
    return one, {name: float(value) for name, value in runner.callback_metrics.items()}


def keys(folder):
    return sorted(path.parent.name for path in folder.glob("*/cache.json"))


def same(one, other, relative=1e-5):
    for name, value in other.gated.state().items():
        difference = (one.gated.state()[name] - value).norm()
        assert difference <= relative * value.norm(), name


STREAMED = {"limit_gb": 0, "above_limit": "stream"}
BALANCE = {"balance": LoadBalanceLoss(weight=0.1)}


def shot(count):
    """Return the quiz with worked examples, and then fewer questions."""
    return quiz(few_shot=count, **({"limit_train": 32, "limit_validation": 16} if count else {}))


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """Give a function that returns an epoch of the full prompts, made once for each setting."""

    @cache
    def made(few_shot=0, balance=False, scope="answer"):
        losses = BALANCE if balance else {}
        return fitted(tmp_path_factory.mktemp("full"), shot(few_shot), losses=losses, scope=scope, use="never")

    return made


@pytest.mark.parametrize("settings", [STREAMED, {}], ids=["streamed", "kept"])
@pytest.mark.parametrize(("few_shot", "balance"), [(0, True), (5, False)])
def test_an_epoch_is_that_of_the_full_prompts(settings, few_shot, balance, full, tmp_path):
    kept, came = fitted(tmp_path, shot(few_shot), losses=BALANCE if balance else {}, **settings)
    other, wanted = full(few_shot, balance)
    assert bool(keys(tmp_path)) == (not settings)
    same(kept, other)
    assert came == pytest.approx(wanted, rel=1e-5, nan_ok=True)
    shared = kept.examiner.answering._prefixes("train")
    assert bool(shared.tokens_G) == (few_shot == 5), "five examples are more tokens than it takes to share them"
    if few_shot and not settings:
        plan = kept.examiner.answering.source("train").plan
        every = sum(len(one.ids_S) - 1 for one in kept.quiz.encoded("train").prompts)
        assert int(plan.own_length_Q.sum() + plan.prefix_length_G.sum()) < every / 2


@pytest.mark.parametrize("scope", ["answer", "all"])
def test_a_trunk_trains_as_the_full_prompts_do(scope, full, tmp_path):
    kept, came = fitted(tmp_path, use="trunk", scope=scope)
    other, wanted = full(scope=scope)
    assert kept.examiner.answering.ways == {"train": "trunk cache", "validation": "full prompts"}
    same(kept, other)
    assert came == pytest.approx(wanted, rel=1e-5, nan_ok=True)


def test_a_kept_prompt_is_used_again_and_only_where_it_is_the_same(tmp_path):
    fitted(tmp_path)
    first = keys(tmp_path)
    assert len(first) == 2
    fitted(tmp_path, head=TemperatureHead(mode="learned"))
    fitted(tmp_path, layers="last-1")  # a cache that starts lower serves the layers above
    fitted(tmp_path, losses={"balance": LoadBalanceLoss()})
    assert keys(tmp_path) == first
    fitted(tmp_path, layers="all")
    assert len(keys(tmp_path)) == 4
    fitted(tmp_path, data=quiz(limit_train=59))
    assert len(keys(tmp_path)) == 5
    textbook = QuizDataModule(NanoQuiz(), "nano_textbook", limit_train=60, limit_validation=40)
    fitted(tmp_path, data=textbook)
    assert len(keys(tmp_path)) == 7


def test_a_cache_from_a_lower_layer_gives_the_same(tmp_path):
    fitted(tmp_path / "low", layers="all")
    lower, _ = fitted(tmp_path / "low", layers="last-1")
    own, _ = fitted(tmp_path / "own", layers="last-1")
    same(lower, own)


def test_above_the_limit_training_takes_a_sample_and_evaluation_streams(tmp_path):
    one = quiz()
    fitted(tmp_path / "whole", data=quiz())
    (train,) = [
        record
        for record in map(json.loads, (path.read_text() for path in (tmp_path / "whole").glob("*/cache.json")))
        if record["description"]["split"] == "train"
    ]
    limit = 0.5 * train["bytes"] / 1e9
    kept, _ = fitted(tmp_path / "half", data=one, limit_gb=limit)
    assert kept.examiner.answering.ways == {"train": "cached", "validation": "streamed"}
    assert 20 <= len(one.questions("train")) <= 30
    assert one.manifest["splits"]["train"]["limit"] == len(one.questions("train"))
    size = sum(path.stat().st_size for path in (tmp_path / "half").rglob("*.bin"))
    assert size <= limit * 1e9


def test_on_is_refused_where_it_would_not_be_exact(tmp_path):
    with pytest.raises(ConfigError, match="scope all"):
        fitted(tmp_path, scope="all", use="always")
    with pytest.raises(ConfigError, match="loss balance"):
        fitted(tmp_path, losses={"balance": LoadBalanceLoss(scope="all")}, use="always")
    full, _ = fitted(tmp_path, losses={"balance": LoadBalanceLoss(scope="all")})
    assert full.examiner.answering.describe() == "answer path off (loss balance looks at all tokens): full prompts"
    assert not keys(tmp_path)


def test_the_start_up_line_and_the_manifest_say_which_way(tmp_path, caplog):
    caplog.set_level("INFO")
    runs = tmp_path / "runs"
    for more, said in (
        ([], "answer path on (train, validation cached)"),
        (["--model.answer_path.use", "never"], "answer path off (switched off): full prompts"),
        (["--model.scope", "all"], "answer path off (scope all): full prompts"),
    ):
        caplog.clear()
        few = ["--data.limit_train=16", "--data.limit_validation=16", "--test_after_fit=false"]
        assert main(["fit", *TINY, *few, "--runs_root", str(runs), *more]) == 0
        assert said in caplog.text
        (run,) = runs.iterdir()
        ways = set(manifest(run)["answer_path"].values())
        assert ways == ({"cached"} if not more else {"full prompts"})
        assert set(routing(run, "validation")["scope"]) == ({"answer"} if not more else {"answer", "all"})
        shutil.rmtree(run)


def test_test_and_predict_agree_with_the_full_prompts(tmp_path, finished):
    run = shutil.copytree(finished, tmp_path / finished.name)
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    for use in ("auto", "never"):
        words = ["--model.answer_path.use", use, "--runs_root", str(tmp_path)]
        assert main(["predict", "--ckpt_path", checkpoint, *words]) == 0
    frames = [pd.read_parquet(file) for file in sorted(tmp_path.rglob("predictions.parquet"))]
    assert len(frames) == 2
    assert frames[0]["prediction"].equals(frames[1]["prediction"])
    for one, other in zip(frames[0]["log_probs"], frames[1]["log_probs"], strict=True):
        assert list(one) == pytest.approx(list(other), rel=1e-4, abs=rounding_of(other))  # of a sure answer 0 is left


def test_cache_build_keeps_what_a_fit_reads(tmp_path, capsys):
    few = [*TINY, *(f"--data.limit_{split}=16" for split in ("train", "validation", "test"))]
    here = [*few, "--model.answer_path.folder", str(tmp_path / "kept")]
    assert main(["cache", "build", *here]) == 0
    assert "train: 16 questions cached" in capsys.readouterr().out
    built = keys(tmp_path / "kept")
    assert main(["fit", *here, "--runs_root", str(tmp_path / "runs")]) == 0
    assert keys(tmp_path / "kept") == built
    assert main(["cache", "build", *here, "--splits", "exam"]) == 2
    assert main(["cache", "build", *few, "--model.answer_path.folder", str(tmp_path), "--splits", "test"]) == 0
    assert len(keys(tmp_path)) == 1, "only what was asked for"


def test_a_grid_gives_each_head_what_it_gets_alone(tmp_path, finished, capsys):
    overlay = ["--config", "configs/head/temperature.yaml"]
    argv = ["grid", *TINY, *overlay, "--vary", "model.head.tau=0.3,0.6", "--vary", "model.layers=last-1,last-3"]
    capsys.readouterr()
    assert main([*argv, "--checkpoints", str(finished / "checkpoints" / "last.ckpt"), "--format", "json"]) == 0
    points = json.loads(capsys.readouterr().out)
    assert len(points) == 6
    assert points[0]["label"] == "pretrained router"
    assert len({point["numbers"]["entropy_topk"] for point in points}) == 6
    for tau, layers, point in ((0.3, "last-3", points[2]), (0.6, "last-1", points[3])):
        alone = tmp_path / f"{tau}-{layers}"
        settings = ["--model.head.tau", str(tau), "--model.layers", layers, "--runs_root", str(alone)]
        assert main(["validate", *TINY, *overlay, *settings]) == 0
        (run,) = alone.glob("*/")
        logged = {key: value for line in history(run) for key, value in line.items()}
        for name in ("accuracy", "loss", "entropy_topk", "never_activated_share"):
            assert point["numbers"][name] == pytest.approx(logged[f"validation/{name}"], rel=1e-5), name


def test_a_grid_of_strengths_goes_from_the_pretrained_router_to_the_trained_one(finished, capsys):
    last = str(finished / "checkpoints" / "last.ckpt")
    strengths = ["--config", "configs/head/strength.yaml", "--vary", "model.head.strength=0,0.5,1"]
    capsys.readouterr()
    assert main(["grid", "--ckpt_path", last, *strengths, "--checkpoints", last, "--format", "json"]) == 0
    pretrained, none, half, whole, trained = json.loads(capsys.readouterr().out)
    assert none["numbers"] == pretrained["numbers"]
    assert whole["numbers"] == trained["numbers"] != pretrained["numbers"]
    assert half["label"] == "strength=0.5"
    assert half["numbers"]["loss"] not in (pretrained["numbers"]["loss"], trained["numbers"]["loss"])


def test_a_grid_of_ks_tells_the_work_and_marks_the_checkpoints_own(capsys):
    argv = ["grid", *TINY, "--config", "configs/head/fixed_k.yaml", "--vary", "model.head.k=1,8,12"]
    capsys.readouterr()
    assert main([*argv, "--format", "json"]) == 0
    points = json.loads(capsys.readouterr().out)
    assert [one["experts"] for one in points] == [8, 1, 8, 12]
    assert [one["as_pretrained"] for one in points] == [True, False, True, False]
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert "k=8 *" in said
    assert said.count(" * ") == 1


def test_a_grid_refuses_what_it_cannot_compare(tmp_path, capsys):
    for more, said in (
        ([], "--vary or --checkpoints"),
        (["--vary", "optimizer.lr=1,2"], "experiment"),
        (["--vary", "model.layers=last-1", "--model.scope", "all"], "scope answer"),
        (["--vary", "model.layers=last-1", "--config", "configs/peft/attention.yaml"], "LoRA"),
    ):
        assert main(["grid", *TINY, *more]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.slow
def test_arms_that_share_a_workbench_are_those_of_separate_processes(tmp_path, monkeypatch):
    """The model, the tokenizer and the data are read once; every bit of every arm is as if it ran alone."""
    from moe_tune.settings.running import run
    from moe_tune.settings.workbench import Workbench

    few = ["--data.limit_validation=16", "--test_after_fit=false"]
    arms = {
        "a": ["--model.head", "RetunedHead"],
        "lora": ["--config", "configs/peft/attention.yaml", "--optimizer.lr", "0.01"],
        "b": ["--config", "configs/head/accuracy_bias.yaml", "--model.head.n_min", "5"],
        "c": ["--config", "configs/head/retuned_temperature.yaml", "--model.scope", "all"],
        "d": ["--model.head", "RetunedHead", "--seed_everything", "1"],
    }
    bench = Workbench()
    for name, arm in arms.items():
        for folder, shared in (("shared", bench), ("alone", None)):
            run(["fit", *TINY, *few, *arm, "--runs_root", str(tmp_path / folder), "--name", name], workbench=shared)
    runs = [sorted(path for path in (tmp_path / one).iterdir() if path.is_dir()) for one in ("shared", "alone")]
    assert len(runs[0]) == len(runs[1]) == len(arms)
    assert all(same_weights(*pair) for pair in zip(*runs, strict=True))


@pytest.mark.slow
def test_calibration_reads_the_same_table_whichever_way_prompts_go(tmp_path):
    """Also above the limit, where the split becomes a sample only when calibration asks for it."""
    tables = []
    for settings in ({"use": "never"}, {}, {"use": "trunk"}, {"limit_gb": 0, "above_limit": "stream"}):
        one = tuner(tmp_path, head=AccuracyBiasHead(n_min=1), **settings)
        trainer().validate(one, datamodule=quiz(), verbose=False)
        tables.append(one.table)
    for table in tables[1:]:
        for layer in (2, 3):
            assert torch.equal(table.layers[layer].chosen_E, tables[0].layers[layer].chosen_E)
            assert torch.equal(table.layers[layer].correct_E, tables[0].layers[layer].correct_E)
    sampled = tuner(tmp_path / "half", head=AccuracyBiasHead(n_min=1), limit_gb=1e-3)
    data = quiz(limit_train=200)
    trainer().validate(sampled, datamodule=data, verbose=False)
    assert sampled.table.questions == len(data.questions("train")) < 200
