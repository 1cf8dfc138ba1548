"""How a fit ends: finished, again, and with a verb that does not exist."""

from pathlib import Path

from moe_tune.faults.case import Case

ROOT = Path(__file__).parents[2]
TINY = [word for name in ("nano", "debug/tiny", "logger/none") for word in ("--config", f"{ROOT}/configs/{name}.yaml")]


def _again(trial):
    first = trial.run(["fit", *TINY])
    again = trial.run(["fit", *TINY])
    return f"{first.code}, {again.code} {'already complete' if 'already complete' in again.out else again.out}"


CASES = [Case("F31", "a finished fit once more", "0, 0 already complete", _again)]
