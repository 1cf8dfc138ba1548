"""The list of runs says what differs, how it went, and how old a run is."""

import json
import re
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from made_up_runs import write_run
from test_pretrained import beside

from moe_tune.base.errors import DataError
from moe_tune.cli.list import main
from moe_tune.compare.run_list import listed_runs

HEADS = {"RetunedHead": "retuned", "TemperatureHead": "temperature"}
NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


def config(head, tau=1.0, **optimizer):
    options = {"tau": tau, "mode": "fixed"} if head == "TemperatureHead" else {}
    head = {"class_path": f"moe_tune.heads.{HEADS[head]}.{head}", "init_args": options}
    return {"model": {"head": head}, "optimizer": {"init_args": optimizer}}


def ago(**time):
    return (NOW - timedelta(**time)).isoformat(timespec="seconds")


@pytest.fixture
def root(tmp_path):
    base = write_run(tmp_path / "elsewhere" / "base", splits=("test",))
    runs = tmp_path / "runs"
    for place, rate in enumerate((0.1, 0.1, 0.3)):
        about = {
            "seed": place if place < 2 else 0,
            "config": config("RetunedHead", lr=rate),
            "started": ago(hours=place + 1),
        }
        beside(write_run(runs / f"nano-{place}", gain=0.15, splits=("test",), **about), base, ["test"])
    write_run(
        runs / "other",
        status="started",
        config=config("TemperatureHead", tau=0.5, lr=0.1),
        splits=("validation",),
        started=ago(days=3),
    )
    (runs / "compare").mkdir()
    (runs / "nano-0.old-12345678").mkdir()
    return runs


def test_what_differs_from_most_how_it_went_and_since_when(root):
    listed = {one.name: one for one in listed_runs(root, NOW)}
    assert list(listed) == ["nano-0", "nano-1", "nano-2", "other"]
    assert [one.differs for one in listed.values()] == ["", "seed=1", "lr=0.3", "seed=1 head=TemperatureHead tau=0.5"]
    assert [one.age for one in listed.values()] == ["1 h", "2 h", "3 h", "3 d"]
    assert listed["nano-0"].headline.startswith("test ")
    assert re.fullmatch(r"test 50\.0 %, \+2\.5 \[-2\.\d, \+7\.\d\]", listed["nano-0"].headline)
    assert listed["other"].headline.startswith("validation ")
    assert listed["other"].headline.endswith("% (started)")


def test_values_stay_whole_and_keys_say_which_of_several_they_are(tmp_path):
    for place, (base, text) in enumerate(
        (("nano", "mine/a.jsonl"), ("nano", "mine/a.jsonl"), ("other/b.c", "mine/x.jsonl"))
    ):
        of = {"class_path": "moe_tune.data.local_text.LocalText", "init_args": {"path": text}}
        about = config("RetunedHead", lr=0.1)
        about["model"] |= {"base": {"path": base}, "task": "next_token"}
        about["data"] = {"text": {"source": of}}
        run = write_run(tmp_path / f"run-{place}", started=ago(hours=place), splits=("validation",), config=about)
        (run / "text").mkdir()
        for ending, loss in (("", 2.0), (".base", 3.0)):
            frame = pd.DataFrame({"id": ["a", "b"], "content_hash": ["a", "b"], "tokens": [1, 3], "loss": [loss, 4.0]})
            frame.to_parquet(run / "text" / f"validation{ending}.parquet")
    listed = listed_runs(tmp_path, NOW)
    assert [one.differs for one in listed] == ["", "", "text.path=mine/x.jsonl base.path=other/b.c"]
    assert all(one.headline.endswith("; text validation loss 3.5000, pretrained 3.7500") for one in listed)


def test_the_verb_prints_a_table_or_json_and_refuses_no_folder(root, capsys):
    assert main(["runs", "--runs_root", str(root), "--format", "json"], {}) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == ["nano-0", "nano-1", "nano-2", "other"]
    assert main(["runs", "--runs_root", str(root)], {}) == 0
    assert "lr=0.3" in capsys.readouterr().out
    with pytest.raises(DataError, match="a folder of runs"):
        main(["runs", "--runs_root", str(root / "none")], {})
