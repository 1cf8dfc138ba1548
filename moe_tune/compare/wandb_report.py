"""A comparison in W&B: its table at full precision, and its report as a page."""

from pathlib import Path

import pandas as pd

from moe_tune.compare.comparison import Comparison
from moe_tune.tracking.wandb_logger import RouterWandbLogger, close_wandb_run


def send_comparison(logger: RouterWandbLogger, comparison: Comparison, out: Path) -> str:
    """Log a comparison as a W&B run of its own, end the run, and return where it is, if it is anywhere.

    A fault of W&B is a warning; the files are there all the same.
    """
    import wandb

    arms = {name: list(arm.runs) for name, arm in comparison.arms.items()}
    logger.log_hyperparams({"baseline": comparison.baseline, "splits": list(comparison.splits), "arms": arms})
    frame = pd.read_csv(out / "table.csv")
    # A cell without a value is none, not NaN beside text, which a column of a W&B table cannot hold.
    logger.log_table("comparison", dataframe=frame.astype(object).where(frame.notna(), None))
    # The page is complete: W&B's own style sheet would be put on top of its own.
    logger.log_metrics({"report": wandb.Html(out / "report.html", inject=False)})
    run = logger.experiment
    place = "disabled by WANDB_MODE, nothing is logged" if run.disabled else str(run.url or run.settings.sync_dir)
    close_wandb_run(failed=False)
    return place
