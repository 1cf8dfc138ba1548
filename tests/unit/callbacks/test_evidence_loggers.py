"""What loggers get of an evaluation's evidence: tables and images under their keys, Lightning's own W&B logger too."""

from types import SimpleNamespace

import pandas as pd
import pytest
import wandb
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from made_up_evidence import made_up_evidence, with_every_metric

from moe_tune.base.published import write_parquet
from moe_tune.callbacks import evidence_log
from moe_tune.callbacks.evidence_log import EvidenceLog
from moe_tune.runs.answers import base_routing_file
from moe_tune.tracking.wandb_logger import RouterWandbLogger


def write(split, logger, folder):
    frame = with_every_metric(made_up_evidence())
    trainer = SimpleNamespace(is_global_zero=True, default_root_dir=folder, loggers=[logger])
    evidence = SimpleNamespace(frame=frame.copy, subject_frame=lambda subjects: pd.DataFrame({"subject": subjects}))
    tuner = SimpleNamespace(quiz=SimpleNamespace(subjects=["law"]))
    EvidenceLog()._write(trainer, tuner, split, SimpleNamespace(evidence=evidence))
    return int((frame["count"] > 0).sum())


FIGURES = ("usage", "accuracy", "entropy", "scatter")


@pytest.mark.parametrize("kind", [WandbLogger, RouterWandbLogger])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_wandb_gets_two_tables_and_four_images_of_lightnings_logger_and_of_ours(kind, split, tmp_path, monkeypatch):
    logged = {}
    monkeypatch.setattr(kind, "experiment", SimpleNamespace(log=logged.update))
    used = write(split, kind(save_dir=str(tmp_path)), tmp_path)
    tables = {key: len(one.data) for key, one in logged.items() if isinstance(one, wandb.Table)}
    assert tables == {f"{split}/experts": used, f"{split}/layers": 3}
    images = {key for key, one in logged.items() if isinstance(one, list) and isinstance(one[0], wandb.Image)}
    assert images == {f"{split}/{name}_figure" for name in FIGURES}


def test_any_other_logger_takes_evidence_by_one_method(tmp_path):
    taken = {}

    class TakesEvidence(CSVLogger):
        def log_evidence(self, split, tables, figures):
            taken[split] = set(tables), set(figures)

    write("test", TakesEvidence(tmp_path), tmp_path)
    assert taken == {"test": ({"experts", "layers"}, set(FIGURES))}
    write("test", CSVLogger(tmp_path), tmp_path)  # takes numbers alone


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_pretrained_router_is_in_the_figures_of_every_split_it_was_asked(split, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(evidence_log, "evidence_figures", lambda *args: drawn.append(args[2]) or {})
    write(split, CSVLogger(tmp_path), tmp_path)
    write_parquet(made_up_evidence(seed=1), base_routing_file(tmp_path, split))
    write(split, CSVLogger(tmp_path), tmp_path)
    assert drawn[0] is None
    pd.testing.assert_frame_equal(drawn[1], made_up_evidence(seed=1))


def test_a_table_that_wandb_would_cut_arrives_in_parts(tmp_path, monkeypatch):
    logged = {}
    monkeypatch.setattr(RouterWandbLogger, "experiment", SimpleNamespace(log=logged.update))
    frame = pd.DataFrame({"expert": range(25_000)})
    RouterWandbLogger(save_dir=str(tmp_path)).log_table("test/experts", dataframe=frame)
    parts = [one for one in logged.values() if isinstance(one, wandb.Table)]
    assert [key for key in logged if key.startswith("test/")] == ["test/experts", "test/experts_2", "test/experts_3"]
    assert all(len(one.data) <= wandb.Table.MAX_ROWS for one in parts)
    assert [row[0] for one in parts for row in one.data] == frame["expert"].tolist()
