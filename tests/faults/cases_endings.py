"""How a fit ends that something stops: with which code, and whether the same command then ends with the same bits."""

import functools
import signal
from pathlib import Path

from moe_tune.faults.case import Case
from moe_tune.faults.stopped_fit import SMALL, code_of, stop_at_batch, stopped_and_again

ROOT = Path(__file__).parents[2]
TINY = [word for name in ("nano", "debug/tiny", "logger/none") for word in ("--config", f"{ROOT}/configs/{name}.yaml")]
FORMS = {
    "workers 0": (),
    "workers 2": ("--data.num_workers=2",),
    "accumulation 4": ("--trainer.accumulate_grad_batches=4",),
    "workers 2, accumulation 4": ("--data.num_workers=2", "--trainer.accumulate_grad_batches=4"),
}


def stop(form, number, batch, epoch, hook, trial):
    first, again, off = stopped_and_again(trial, [*SMALL, *FORMS[form]], stop_at_batch(number, batch, epoch, hook))
    told = number == signal.SIGKILL or "pre-empted" in first.err
    if first.code != code_of(number) or again.code or not told:
        return f"{first.code}, {again.code} {first.err[-200:]} {again.err[-200:]}"
    return f"{first.code}, 0, {'same bits' if not off else f'unlike: {off}'}"


def stops(kind, form, number, batch, epoch, hook="on_train_batch_start"):
    name = f"{number.name} at {hook} {batch} of epoch {epoch}, {form}"
    attempt = functools.partial(stop, form, number, batch, epoch, hook)
    return Case(kind, name, f"{code_of(number)}, 0, same bits", attempt)


CASES = [
    *(stops("F1", form, signal.SIGKILL, batch, epoch) for form in FORMS for batch, epoch in ((0, 0), (3, 0), (5, 1))),
    *(stops("F4", form, signal.SIGTERM, batch, epoch) for form in FORMS for batch, epoch in ((0, 0), (5, 0), (2, 1))),
]
