"""What loggers get of an evaluation's evidence: tables and images under their keys, Lightning's own W&B logger too."""

from types import SimpleNamespace

import pandas as pd
import pytest
import wandb
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from made_up_evidence import made_up_evidence, with_every_metric

from moe_tune.callbacks.evidence_log import EvidenceLog
from moe_tune.reports.loggers import EvidenceLogger
from moe_tune.tracking.wandb_logger import RouterWandbLogger


@pytest.mark.parametrize("split", ["validation", "test"])
def test_lightnings_own_wandb_logger_gets_two_tables_and_four_images(split, tmp_path):
    logged, frame = {}, with_every_metric(made_up_evidence())
    logger = WandbLogger(save_dir=str(tmp_path), experiment=SimpleNamespace(log=logged.update))
    assert not isinstance(logger, EvidenceLogger)
    trainer = SimpleNamespace(is_global_zero=True, default_root_dir=tmp_path, loggers=[logger])
    evidence = SimpleNamespace(frame=frame.copy, subject_frame=lambda subjects: pd.DataFrame({"subject": subjects}))
    tuner = SimpleNamespace(quiz=SimpleNamespace(subjects=["law"]))
    EvidenceLog()._write(trainer, tuner, split, SimpleNamespace(evidence=evidence))
    tables = {key: len(one.data) for key, one in logged.items() if isinstance(one, wandb.Table)}
    used = frame["count"] > 0
    assert tables == {f"{split}/experts": used.sum(), f"{split}/layers": 3}
    images = {key for key, one in logged.items() if isinstance(one, list) and isinstance(one[0], wandb.Image)}
    assert images == {f"{split}/{name}_figure" for name in ("usage", "accuracy", "entropy", "scatter")}


def test_our_own_logger_takes_evidence_by_one_method_under_the_same_keys_and_others_none(tmp_path, monkeypatch):
    logged = {}
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(RouterWandbLogger, "log_table", lambda self, key, dataframe: logged.update({key: dataframe}))
    monkeypatch.setattr(RouterWandbLogger, "log_image", lambda self, key, images: logged.update({key: images}))
    logger = RouterWandbLogger(save_dir=str(tmp_path))
    assert isinstance(logger, EvidenceLogger)
    frame = pd.DataFrame({"layer": [0]})
    logger.log_evidence("validation", {"experts": frame}, {"accuracy": tmp_path / "a.png"})
    assert logged == {"validation/experts": frame, "validation/accuracy_figure": [str(tmp_path / "a.png")]}
    assert not isinstance(CSVLogger(tmp_path), EvidenceLogger)
