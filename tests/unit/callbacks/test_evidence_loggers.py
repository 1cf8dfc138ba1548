"""What loggers get of an evaluation's evidence: tables and images under their keys, Lightning's own W&B logger too."""

from types import SimpleNamespace

import pandas as pd
import pytest
import wandb
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from made_up_evidence import made_up_evidence, with_every_metric

from moe_tune.callbacks.evidence_log import EvidenceLog
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
