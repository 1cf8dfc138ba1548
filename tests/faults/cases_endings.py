"""How a fit ends that something stops: with which code, and whether the same command then ends with the same bits."""

import functools
import signal
from pathlib import Path

from moe_tune.faults.case import Case
from moe_tune.faults.same_run import only_run, unlike
from moe_tune.faults.stopped_fit import SMALL, code_of, stop_at_batch, undisturbed

ROOT = Path(__file__).parents[2]
TINY = [word for name in ("nano", "debug/tiny", "logger/none") for word in ("--config", f"{ROOT}/configs/{name}.yaml")]
WORKERS, ACCUMULATION = "--data.num_workers=2", "--trainer.accumulate_grad_batches=4"
FULL = "--model.answer_path.use=never"
"""Full prompts, which workers collate; on the answer path there is nothing for them to do."""
FORMS = {
    "workers 0": (),
    "workers 2": (WORKERS, FULL),
    "accumulation 4": (ACCUMULATION,),
    "workers 2, accumulation 4": (WORKERS, FULL, ACCUMULATION),
}
BATCHES, EPOCHS = 6, 2


def counted():
    """Write a line for every batch that is trained on."""
    from moe_tune.tuner.router_tuner import RouterTuner

    step = RouterTuner.training_step

    def noted(self, batch, index):
        with Path("trained").open("a") as file:
            file.write(f"{index}\n")
        return step(self, batch, index)

    RouterTuner.training_step = noted


def stop(form, number, batch, epoch, hook, trial):
    """Stop at a batch and run the same command, which does no more again than the batches of a step begun."""
    argv = [*SMALL, *FORMS[form]]
    first, again = trial.run(argv, before=stop_at_batch(number, batch, epoch, hook)), trial.run(argv, before=counted)
    told = number == signal.SIGKILL or "pre-empted" in first.err
    if first.code != code_of(number) or again.code or not told:
        return f"{first.code}, {again.code} {first.err[-200:]} {again.err[-200:]}"
    trained = len((trial.folder / "trained").read_text().splitlines()) if (trial.folder / "trained").exists() else 0
    most = EPOCHS * BATCHES - (epoch * BATCHES + batch) + (3 if ACCUMULATION in argv else 0)
    off = unlike(only_run(trial.folder / "runs"), undisturbed(argv))
    more = f", {trained} batches trained of {most} at most" if trained > most else ""
    return f"{first.code}, 0, {'same bits' if not off else f'unlike: {off}'}{more}"


def stops(kind, form, number, batch, epoch, hook="on_train_batch_start"):
    name = f"{number.name} at {hook} {batch} of epoch {epoch}, {form}"
    attempt = functools.partial(stop, form, number, batch, epoch, hook)
    return Case(kind, name, f"{code_of(number)}, 0, same bits", attempt)


def twice(trial):
    """Stop before the first validation, and again when the last one is over."""
    stops = (stop_at_batch(signal.SIGKILL, 2), stop_at_batch(signal.SIGKILL, 0, EPOCHS - 1, "on_train_epoch_end"))
    codes = []
    for before in stops:
        codes.append(trial.run(SMALL, before=before).code)
        (trial.folder / "stopped").unlink()
    again = trial.run(SMALL)
    off = unlike(only_run(trial.folder / "runs"), undisturbed(SMALL))
    return f"{codes}, {again.code}, {'same bits' if not off else f'unlike: {off}'}"


CASES = [
    Case("F1", "SIGKILL before the first validation and after the last", "[137, 137], 0, same bits", twice),
    *(stops("F1", form, signal.SIGKILL, 3, 0) for form in FORMS),
    stops("F1", "workers 0", signal.SIGKILL, 5, 1),
    *(stops("F4", form, signal.SIGTERM, 5, 0) for form in FORMS),
    stops("F4", "workers 0", signal.SIGTERM, 2, 1),
]
