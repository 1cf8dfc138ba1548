"""Outages of W&B: a fit ends with 0, has every number in its own files, warns in one line and is held up briefly."""

import json
import os
import signal
import sys

from cases_endings import ROOT, TINY
from tiny import only_run
from wandb_server.server import WandbServer

import moe_tune.tracking.wandb_logger as wandb_logger
from moe_tune.faults.case import Case
from moe_tune.tuner.router_tuner import RouterTuner

FIT = ["fit", *TINY[:-1], f"{ROOT}/configs/logger/wandb.yaml", "--trainer.log_every_n_steps", "1"]
LINES = 3
"""Lines of metrics.jsonl at the least: some steps, and the validation."""
LONGEST = 30.0
"""Seconds for which an outage may hold the end of a fit."""
SLOW_MACHINE = 25.0
"""Seconds that a tiny fit with a start of W&B may take by itself."""
QUICK = {"WANDB_FINISH_TIMEOUT": "2", "WANDB_INIT_TIMEOUT": "2"}
TOLD = "exit 0, one warning, all numbers, held up briefly"


def impatient():
    """Wait less, so that the table is quick; that the waits of a user end in time is a case of its own."""
    wandb_logger.ANSWER_SECONDS = 2.0


def service_killed():
    """Kill W&B's service process in the midst of training."""
    _signal_in_training(signal.SIGKILL)


def service_stopped():
    """Let W&B's service process stand still in the midst of training."""
    _signal_in_training(signal.SIGSTOP)


def finish_hangs():
    """Let W&B's service process stand still when training is over, so that the end of its run is never answered."""
    impatient()
    usual = wandb_logger.note_gains

    def changed(compared):
        _signal(signal.SIGSTOP)
        usual(compared)

    import moe_tune.settings.ending as ending

    ending.note_gains = changed


def _signal(number):
    wandb = sys.modules["wandb"]
    os.kill(wandb.setup()._connection._proc._process.pid, number)


def _signal_in_training(number):
    impatient()
    usual, calls = RouterTuner.training_step, [0]

    def changed(self, *args, **kwargs):
        calls[0] += 1
        if calls[0] == 3:
            _signal(number)
        return usual(self, *args, **kwargs)

    RouterTuner.training_step = changed


def _outage(name, before=impatient, quick=True, closed=False, address=None, **server_words):
    """Return the case of an outage; ``server_words`` are those of ``WandbServer``."""

    def attempt(trial):
        with WandbServer(**server_words) as server:
            if closed:
                server.stop()
            more = {**(QUICK if quick else {}), **({"WANDB_BASE_URL": address} if address else {})}
            more["XDG_CACHE_HOME"] = str(trial.folder / "cache")
            ended = trial.run([*FIT, "--test_after_fit", "false"], server.environment(trial.folder, **more), before)
        said = [line for line in ended.err.splitlines() if "W&B" in line or "wandb:" in line]
        warned = "one warning" if len(said) == 1 and "Traceback" not in ended.err else f"{len(said)} warnings {said}"
        run = only_run(trial.folder / "runs")
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        steps = json.loads((run / "manifest.json").read_text())["status"] == "finished"
        whole = steps and len(rows) >= LINES and any("validation/accuracy" in row for row in rows)
        held = "held up briefly" if ended.seconds < SLOW_MACHINE + LONGEST else f"{ended.seconds:.0f} s"
        return f"exit {ended.code}, {warned}, {'all numbers' if whole else 'numbers lost'}, {held}"

    return Case("F26", f"W&B {name}", TOLD, attempt)


MID_RUN = {"dies_after_rows": 1}
CASES = [
    _outage("refuses connections", closed=True),
    _outage("is an unknown host", address="http://wandb.invalid"),
    _outage("takes connections and never answers", fault="silent"),
    _outage("answers 401", fault=401),
    _outage("answers 500", fault=500),
    _outage("vanishes in the midst of a run", **MID_RUN),
    _outage("answers no more from the midst of a run", **MID_RUN, dies_with="silent"),
    _outage("answers no more from the midst of a run, waits as they are", None, False, **MID_RUN, dies_with="silent"),
    _outage("answers 401 from the midst of a run", **MID_RUN, dies_with=401),
    _outage("answers 500 from the midst of a run", **MID_RUN, dies_with=500),
    _outage("service process killed", service_killed),
    _outage("service process stands still", service_stopped),
    _outage("finish hangs", finish_hangs),
]
