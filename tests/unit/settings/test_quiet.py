"""Keeping the libraries quiet leaves nothing behind that grows with the number of runs."""

import logging
import warnings

from moe_tune.settings.fit_settings import FitSettings
from moe_tune.settings.quiet import quieten


def test_another_run_adds_no_filter_and_changes_no_level():
    def state():
        loggers = [
            logging.getLogger(f"lightning.{name}") for name in ("pytorch.utilities.rank_zero", "fabric.utilities.seed")
        ]
        return [(len(one.filters), one.level) for one in loggers], len(warnings.filters)

    levels = [one for _, one in state()[0]]
    FitSettings(["--config", "configs/nano.yaml"])
    quieten()
    first = state()
    FitSettings(["--config", "configs/nano.yaml"])
    quieten()
    assert state() == first
    assert [one for _, one in first[0]] == levels


def test_tips_are_left_out_and_messages_are_not(caplog):
    quieten()
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with caplog.at_level(logging.INFO, logger=logger.name):
        logger.info("Tip: buy something")
        logger.info("answer path on")
    assert [record.getMessage() for record in caplog.records] == ["answer path on"]
