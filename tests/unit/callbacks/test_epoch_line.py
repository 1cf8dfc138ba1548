"""The bar goes to a terminal alone, stays within it, and a configured one is left alone."""

import io
import sys
from types import SimpleNamespace

import pytest
from lightning.pytorch.callbacks import RichProgressBar

from moe_tune.callbacks.epoch_line import Bar, progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("terminal", "chosen", "enabled", "bars", "shown"),
    [
        (True, [], None, 1, None),
        (True, [], False, 0, False),
        (False, [], None, 0, False),
        (False, [], True, 0, True),
        (False, [RichProgressBar()], None, 0, None),
        (True, [RichProgressBar()], None, 0, None),
    ],
)
def test_who_gets_a_bar(monkeypatch, terminal, chosen, enabled, bars, shown):
    monkeypatch.setattr(sys, "stdout", Terminal() if terminal else io.StringIO())
    added, enabled = progress_bar(chosen, enabled)
    assert ([type(one) for one in added], enabled) == ([Bar] * bars, shown)


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_the_bar_is_no_wider_than_the_terminal_and_holds_two_whole_keys(monkeypatch, columns):
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr("tqdm.std._screen_shape_wrapper", lambda: lambda file: (columns, 24))
    logged = {"train/loss": 0.123456, "train/accuracy": 0.5, "validation/entropy_topk": 2.0}
    bar = Bar()
    bar._trainer = SimpleNamespace(progress_bar_metrics=logged, loggers=[])
    assert bar.get_metrics(bar._trainer, None) == {"loss": "0.123", "accuracy": "0.5"}
    drawn = bar.init_train_tqdm()
    drawn.reset(total=1000)
    drawn.set_description("Epoch 1")
    drawn.set_postfix(bar.get_metrics(bar._trainer, None))
    drawn.close()
    lines = screen.getvalue().replace("\n", "\r").split("\r")
    assert max(len(line) for line in lines) <= columns
    assert not lines[-1].strip()
