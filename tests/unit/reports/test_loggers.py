"""A logger that takes evidence is known by one method."""

from lightning.pytorch.loggers import CSVLogger

from moe_tune.reports.loggers import EvidenceLogger


class TakesEvidence(CSVLogger):
    def log_evidence(self, split, tables, figures):
        pass


def test_a_logger_that_takes_evidence_is_known_by_its_method(tmp_path):
    assert isinstance(TakesEvidence(tmp_path), EvidenceLogger)
    assert not isinstance(CSVLogger(tmp_path), EvidenceLogger)
