"""Routes out of a prediction and back into one: the file holds every token; pinning its own model changes no bit."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from tiny_runs import TINY, only_run

from moe_tune.base.routes import ABOUT
from moe_tune.base.routes_file import read_routes
from moe_tune.cli.main import main
from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.identity import IdentityHead
from moe_tune.models.base_model import BaseModel
from moe_tune.tuner.evaluate import quiz

BASE = ["--config", "configs/head/identity.yaml"]


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """The predictions of the pretrained router, and its routes."""
    folder = tmp_path_factory.mktemp("predicted")
    file = folder / "routes.parquet"
    assert main(["predict", *TINY, *BASE, "--runs_root", str(folder / "runs"), "--routes", str(file)]) == 0
    return only_run(folder / "runs"), file


def answers(run):
    frame = pd.read_parquet(run / "predictions.parquet")
    return frame.assign(log_probs=frame["log_probs"].map(tuple))


def test_the_file_says_what_the_routers_decide(predicted):
    run, file = predicted
    routes = pd.read_parquet(file)
    assert list(routes) == ["id", "token", "token_id", "layer", "slot", "expert", "weight"]
    assert sorted(set(routes["id"])) == sorted(answers(run)["id"])
    base = BaseModel("nano")
    gated = GatedModel(*base.load(), IdentityHead(), "all", "all")
    prompts = quiz(NanoQuiz(), base, protocol="nano_quiz").encoded("test").prompts
    asked = [one for one in prompts if one.question.id in set(routes["id"])][:3]
    for one in asked:
        with torch.no_grad():
            gated(one.ids_S.long()[None])
        mine = routes[routes["id"] == one.question.id]
        for layer, output in gated.trace.outputs.items():
            rows = mine[mine["layer"] == layer].sort_values(["token", "slot"])
            assert rows["expert"].tolist() == output.experts_TK.flatten().tolist()
            assert rows["weight"].to_numpy() == pytest.approx(output.weights_TK.flatten().numpy(), abs=1e-5)
            assert rows["token_id"].to_numpy()[::8].tolist() == one.ids_S.tolist()


def test_predictions_are_those_without_a_file(predicted, tmp_path):
    """Up to the rounding of the way: without it the answer token alone is run."""
    run, _ = predicted
    assert main(["predict", *TINY, *BASE, "--runs_root", str(tmp_path)]) == 0
    came, wanted = answers(only_run(tmp_path)), answers(run)
    assert came["id"].equals(wanted["id"])
    for one, other in zip(came["log_probs"], wanted["log_probs"], strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert only_run(tmp_path).name == run.name, "the file makes no other run"


@pytest.mark.parametrize("scope", ["answer", "all"])
@pytest.mark.parametrize("weights", [True, False])
def test_pinned_to_its_own_routes_a_model_is_itself_to_the_last_bit(scope, weights, predicted, tmp_path):
    run, file = predicted
    if not weights:
        pd.read_parquet(file).drop(columns="weight").to_parquet(file := tmp_path / "ids.parquet", index=False)
    pinned = ["--model.head", "RoutesHead", "--model.head.file", str(file), "--model.scope", scope]
    again = ["--routes", str(tmp_path / "again.parquet"), "--runs_root", str(tmp_path / "runs")]
    assert main(["predict", *TINY, *pinned, *again]) == 0
    assert answers(only_run(tmp_path / "runs")).equals(answers(run))
    columns = ["token_id", "layer", "slot", "expert"]
    assert pd.read_parquet(tmp_path / "again.parquet")[columns].equals(pd.read_parquet(file)[columns])


def test_with_other_routes_it_is_another_model(predicted, tmp_path):
    run, file = predicted
    routes = pd.read_parquet(file)
    routes.assign(expert=(routes["expert"] + 5) % 64).to_parquet(tmp_path / "other.parquet", index=False)
    pinned = [
        "--model.head",
        "RoutesHead",
        "--model.head.file",
        str(tmp_path / "other.parquet"),
        "--model.scope",
        "all",
    ]
    assert main(["predict", *TINY, *pinned, "--runs_root", str(tmp_path / "runs")]) == 0
    assert not answers(only_run(tmp_path / "runs"))["log_probs"].equals(answers(run)["log_probs"])


def test_what_does_not_go_together_is_refused_in_one_line(predicted, tmp_path, capsys):
    _, file = predicted
    pinned = ["--model.head", "RoutesHead", "--model.head.file", str(file), "--runs_root", str(tmp_path / "runs")]
    routes = ["--routes", str(tmp_path / "routes.parquet"), "--runs_root", str(tmp_path / "runs")]
    for code, words, said in (
        (3, ["predict", *TINY, *pinned, *routes[:2], "--data.protocol", "nano_textbook"], "has routes for"),
        (3, ["validate", *TINY, *pinned], "has routes for"),
        (2, ["grid", *TINY, *pinned, "--vary", "model.layers=all"], "whole prompts"),
        (2, ["predict", *TINY, *BASE, *routes, "--data.protocol", "cloze"], "--routes"),
        (2, ["predict", *TINY, *BASE, "--routes", str(file / "routes.parquet")], "a folder to write to"),
        (2, ["predict", *TINY, *BASE, "--routes", str(tmp_path / "routes.csv")], "a file that ends in .parquet"),
        (2, ["validate", *TINY, *BASE, *routes], "--routes"),
    ):
        capsys.readouterr()
        assert main(words) == code
        err = capsys.readouterr().err
        assert said in err
        assert len([line for line in err.splitlines() if "expected" in line]) == 1
    assert not list(tmp_path.glob("*.parquet*")), "no half of a file"


def test_routes_of_another_base_of_the_same_sizes_are_refused(predicted, tmp_path, capsys):
    _, file = predicted
    table = pq.read_table(file)
    about = json.loads(table.schema.metadata[ABOUT])
    assert len(about["fingerprint"]) == 16
    other = tmp_path / "other.parquet"
    pq.write_table(table.replace_schema_metadata({ABOUT: json.dumps(about | {"fingerprint": "0" * 16})}), other)
    words = ["--config", "configs/head/routes.yaml", "--model.scope", "all", "--model.head.file", str(other)]
    assert main(["predict", *TINY, *words, "--runs_root", str(tmp_path / "runs")]) == 2
    assert "of this base model" in capsys.readouterr().err
    assert main(["analyze", "--routes", str(file), str(other)]) == 3
    assert "expected routes of one model but got the base models" in capsys.readouterr().err


def test_analyze_reads_files_of_routes_without_a_model(predicted, tmp_path, capsys, monkeypatch):
    _, file = predicted
    monkeypatch.setattr(BaseModel, "load", None)
    routes = read_routes(file)
    question_N = np.repeat(routes.ids, np.diff(routes.first_Q))
    place_N = np.concatenate([np.arange(length) for length in np.diff(routes.first_Q)])
    columns = {"id": question_N, "token": place_N, "token_id": routes.token_N, "layer": np.array(routes.layers)}
    np.savez(tmp_path / "ids.npz", **columns, expert=routes.experts_NLK)
    capsys.readouterr()
    assert main(["analyze", "--routes", str(file), str(tmp_path / "ids.npz"), "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)["agreement"]
    assert (told["questions"], told["tokens"]) == (64, len(routes.token_N))
    assert told["mean"] == {"other_set": 0.0, "overlap": 1.0, "moved": None}
    assert main(["analyze", "--routes", str(file)]) == 0
    assert "64 questions" in capsys.readouterr().out
    assert main(["analyze", "--routes", *[str(file)] * 3]) == 2
    assert main(["analyze", "--routes", str(tmp_path / "none.parquet")]) == 3
