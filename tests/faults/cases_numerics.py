"""Numbers that are not finite end a fit with 5 before its update; what is kept stays, and the same command goes on."""

import functools

from moe_tune.faults.case import Case
from moe_tune.faults.same_run import only_run, unlike
from moe_tune.faults.stopped_fit import SMALL, undisturbed

STEP = 3
BALANCED = (*SMALL, "--model.losses.balance=LoadBalanceLoss", "--model.losses.balance.weight=0.01")


def loss_nan():
    from moe_tune.tuner.router_tuner import RouterTuner

    step = RouterTuner.training_step

    def broken(self, batch, index):
        return step(self, batch, index) * (float("nan") if self.global_step == STEP else 1)

    RouterTuner.training_step = broken


def loss_infinite():
    from moe_tune.losses.load_balance import LoadBalanceLoss
    from moe_tune.tuner.router_tuner import RouterTuner

    where, step, compute = {}, RouterTuner.training_step, LoadBalanceLoss.compute

    def noted(self, batch, index):
        where["step"] = self.global_step
        return step(self, batch, index)

    RouterTuner.training_step = noted
    LoadBalanceLoss.compute = lambda self, *args: compute(self, *args) * (float("inf") if where["step"] == STEP else 1)


def gradient_nan():
    """Give a loss a finite value and a gradient that is not."""
    from moe_tune.losses.load_balance import LoadBalanceLoss
    from moe_tune.tuner.router_tuner import RouterTuner

    where, step, compute = {}, RouterTuner.training_step, LoadBalanceLoss.compute

    def noted(self, batch, index):
        where["step"] = self.global_step
        return step(self, batch, index)

    def steep(self, *args):
        value = compute(self, *args)
        return value + (value - value.detach()).sqrt() if where["step"] == STEP else value

    RouterTuner.training_step, LoadBalanceLoss.compute = noted, steep


def logits_nan():
    from moe_tune.tuner.router_tuner import RouterTuner

    step = RouterTuner.training_step

    def broken(self, batch, index):
        if self.global_step == STEP:
            weight = next(iter(self.gated.heads[2].parameters()))
            weight.data[0] = float("nan")
        return step(self, batch, index)

    RouterTuner.training_step = broken


def refused(argv, before, words, trial):
    first = trial.run(argv, before=before)
    missing = [word for word in (f"step {STEP} (epoch 0)", "uestions: ", *words) if word not in first.err]
    if first.code != 5 or missing:
        return f"{first.code}, not said: {missing}: {first.err[-500:]}"
    again = trial.run(argv)
    if again.code:
        return f"5, {again.code} {again.err[-300:]}"
    off = unlike(only_run(trial.folder / "runs"), undisturbed(argv))
    return f"5, 0, {'same bits' if not off else f'unlike: {off}'}"


def case(kind, name, argv, before, *words):
    return Case(kind, name, "5, 0, same bits", functools.partial(refused, argv, before, words))


def saturated(trial):
    words = (*SMALL, "--optimizer.lr=1e30", "--trainer.gradient_clip_val=null")
    ended = trial.run(words)
    run = only_run(trial.folder / "runs")
    lines = [line for line in (ended.out + ended.err).splitlines() if "saturated" in line]
    told = '"saturated": true' in (run / "manifest.json").read_text()
    return f"{ended.code}, {len(lines)} line, {told}" if not ended.code else f"{ended.code} {ended.err[-300:]}"


CASES = [
    case("F11", "the loss of a step is NaN", SMALL, loss_nan, "finite gradients", "Nothing was updated"),
    case("F12", "one auxiliary loss is infinite", BALANCED, loss_infinite, "'balance' is inf"),
    case("F12", "the gradient of one loss is NaN, its value is not", BALANCED, gradient_nan, "of loss balance"),
    case("F12", "NaN in one layer's router logits", SMALL, logits_nan, "layer 2"),
    Case("F12", "a learning rate of 1e30", "0, 1 line, True", saturated),
]
