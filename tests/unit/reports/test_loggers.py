"""A logger that takes evidence is known by one method, and W&B's logs it under the keys that runs have always had."""

import pandas as pd
from lightning.pytorch.loggers import CSVLogger

from moe_tune.reports.loggers import EvidenceLogger
from moe_tune.tracking.wandb_logger import RouterWandbLogger


def test_evidence_has_keys_of_its_own(tmp_path, monkeypatch):
    logged = {}
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(RouterWandbLogger, "log_table", lambda self, key, dataframe: logged.update({key: dataframe}))
    monkeypatch.setattr(RouterWandbLogger, "log_image", lambda self, key, images: logged.update({key: images}))
    logger = RouterWandbLogger(save_dir=str(tmp_path))
    assert isinstance(logger, EvidenceLogger)
    frame = pd.DataFrame({"layer": [0]})
    logger.log_evidence("validation", {"experts": frame}, {"accuracy": tmp_path / "a.png"})
    assert logged == {"validation/experts": frame, "validation/accuracy_figure": [str(tmp_path / "a.png")]}


def test_other_loggers_are_left_alone(tmp_path):
    assert not isinstance(CSVLogger(tmp_path), EvidenceLogger)
