"""The verb ``ablate`` on the nano model: its files, what a killed one goes on from, runs, and what is refused."""

import json

import numpy as np
import pandas as pd
import pytest
from tiny_runs import TINY

import moe_tune.interventions.audit as audits
from moe_tune.cli.main import main
from moe_tune.interventions.answers import answers_under

FEW = ["--layers", "2", "3", "--experts", *map(str, range(6)), "--draws", "100"]
TABLES = ("experts", "layers", "sets", "bridge", "observed")


def ablated(out, *words):
    return main(["ablate", *TINY, *FEW, "--out", str(out), *words])


def tables(out):
    return {name: pd.read_parquet(out / f"{name}.parquet") for name in TABLES}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of an audit that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole")
    assert ablated(out, "--sets", "pair=3:4,5", "one=2:1", "both=2:1;3:4") == 0
    return out


def test_its_tables_say_what_they_are_of(whole):
    found = tables(whole)
    experts = found["experts"]
    assert list(zip(experts["layer"], experts["expert"], strict=True)) == [
        (layer, e) for layer in (2, 3) for e in range(6)
    ]
    for name in ("experts", "layers", "sets"):
        assert set(found[name]["evidence"]) == {"interventional"}
        assert set(found[name]["scope"]) == {"answer"}
        assert (found[name]["kl"] >= 0).all()
    assert set(found["observed"]["evidence"]) == {"associational"}
    assert (experts["p_screen"] <= experts["p_claim"] + 1e-12).all()
    assert (experts["reference_draws"] == 20).all()
    assert set(found["bridge"]["layer"]) == {2, 3}
    assert found["bridge"]["spearman"].dropna().between(-1, 1).all()
    assert json.loads((whole / "ablate.json").read_text())["kind"] == "mask"
    assert (whole / "ablate.png").read_bytes()[:4] == b"\x89PNG"
    for name in ("ablate.html", "ablate.md"):
        assert "interventional" in (whole / name).read_text()


def test_sets_are_held_against_the_sum_of_their_experts(whole):
    found = tables(whole)
    sets = found["sets"].set_index("set")
    experts = found["experts"].set_index(["layer", "expert"])["log_prob"]
    assert sets.loc["one", "interaction"] == 0
    assert sets.loc["one", "log_prob"] == experts[2, 1]
    assert sets.loc["both", "sum_of_singles"] == pytest.approx(experts[2, 1] + experts[3, 4])
    assert sets.loc["pair", "interaction"] == pytest.approx(
        sets.loc["pair", "log_prob"] - experts[3, 4] - experts[3, 5], abs=1e-9
    )


def test_killed_in_the_middle_it_goes_on_and_gives_the_same_table(whole, tmp_path, monkeypatch):
    done = []

    def dies(walk, batches, router, untouched, many, name):
        if done:
            raise RuntimeError("power cut")
        done.append(many[0].start)
        return answers_under(walk, batches, router, untouched, many, name)

    sets = ["--sets", "pair=3:4,5", "one=2:1", "both=2:1;3:4"]
    monkeypatch.setattr(audits, "answers_under", dies)
    assert ablated(tmp_path, *sets) != 0
    assert done == [2]
    again = []

    def counts(walk, batches, router, untouched, many, name):
        again.append(many[0].start)
        return answers_under(walk, batches, router, untouched, many, name)

    monkeypatch.setattr(audits, "answers_under", counts)
    assert ablated(tmp_path, *sets) == 0
    assert again == [3]
    for name, table in tables(tmp_path).items():
        pd.testing.assert_frame_equal(table, tables(whole)[name], check_exact=True)
    # Another question makes other answers: nothing that was kept of these serves.
    assert ablated(tmp_path, "--questions", "32") == 0
    assert again == [3, 2, 3]


def test_the_scope_all_is_whole_prompts_and_says_what_pruning_does(whole, tmp_path, capsys):
    assert ablated(tmp_path, "--scope", "all", "--questions", "16", "--format", "json") == 0
    told = json.loads(capsys.readouterr().out)
    assert {one["scope"] for one in told["experts"]} == {"all"}
    assert "pruning" not in " ".join(told["sentences"])
    assert "pruning" in (whole / "ablate.md").read_text()


def test_a_run_is_audited_with_its_own_router_and_its_decisions_are_copied(finished, capsys):
    words = ["--layers", "3", "--experts", "0", "1", "2", "--draws", "100", "--intervention", "drop"]
    assert main(["ablate", str(finished), *words]) == 0
    out = finished / "ablation" / "drop-answer"
    patches = pd.read_parquet(out / "patches.parquet").set_index(["direction", "layer"])["log_prob"]
    assert patches["into pretrained", -1] == pytest.approx(-patches["back into retuned", -1], abs=1e-6)
    assert patches["into pretrained", -1] != 0
    assert "retuned" in capsys.readouterr().out
    assert main(["ablate", str(finished), *words, "--scope", "all"]) != 0
    assert "--scope" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--sets", "pair"], "--sets"),
        (["--experts", "64"], "experts from 0 to 63"),
        (["--experts", "3", "3"], "different experts"),
        (["--sets", "a=3:1", "a=3:2"], "a name for each set"),
        (["--layers", "4"], "layer"),
        (["--split", "test"], "--split"),
        (["--sets", f"most=3:{','.join(map(str, range(60)))}"], "layer 3"),
        (["--intervention", "swap", "--sets", "pair=3:1,2"], "one expert"),
        (["--data.protocol", "cloze"], "letters"),
    ],
)
def test_what_cannot_be_asked_is_told_in_one_line(words, told, tmp_path, capsys):
    assert ablated(tmp_path, *words) != 0
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("moe_tune: expected")
    assert told in said


def test_effects_do_not_depend_on_what_is_done_beside_them(whole, tmp_path):
    assert ablated(tmp_path, "--experts", "3") == 0
    alone, among = (
        pd.read_parquet(out / "experts.parquet").set_index(["layer", "expert"]) for out in (tmp_path, whole)
    )
    np.testing.assert_allclose(alone.loc[(3, 3), "log_prob"], among.loc[(3, 3), "log_prob"], atol=1e-6)
