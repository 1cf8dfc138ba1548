"""How does a training step's time grow with the prompt: over whole prompts, and over kept ones?

Prompts of eight lengths, spaced evenly in the logarithm, whose stems are real MMLU text run together. The time per
question of a step is fitted as ``a + b * tokens`` for each path; the figure is the ratio of the slopes, and a plot of
both is written beside this file. Run it as ``python bench/prompt_length.py``.
"""

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder that holds bench/

import matplotlib as mpl
import numpy as np
import torch
from scipy.stats import linregress

from bench.mid_size import Place, cost, in_fresh_process, machine_line, mmlu_questions, save_model, write_quiz
from bench.roofline import roofline
from bench.sides import Fit, our_fit
from bench.smoke import parsed
from moe_tune.data.question import Question, number_questions

AROUND = 37
"""Tokens of a prompt around its stem: the header, the four one-word choices and ``Answer:``."""


def long_questions(place: Place, lengths: list[int]) -> list[Question]:
    """Return ``batch_size`` questions per length, all different, whose prompts have about that many tokens.

    Args:
        place: Where the tokenizer is; its batch size is how many questions a length has.
        lengths: Tokens of the prompts.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place.model)
    text = " ".join(one.stem for one in mmlu_questions(2000, 256))
    ids = tokenizer(" ".join(text.split()))["input_ids"]
    rows, begin = [], 0
    for length in lengths:
        for number in range(place.batch_size):
            stem = tokenizer.decode(ids[begin : begin + length - AROUND]).strip()
            begin += length - AROUND
            rows.append(("anatomy", stem, ("one", "two", "three", "four"), number % 4))
    return number_questions(rows)


def per_question(fits: list[Fit], batch_size: int) -> dict[int, float]:
    """Return the seconds per question by the length of a batch's longest prompt, medians after each fit's first epoch.

    Args:
        fits: Fits of several epochs over batches of one length each.
        batch_size: Questions per step.
    """
    found = defaultdict(list)
    for fit in fits:
        lengths = len(set(fit.tokens))
        for tokens, seconds in list(zip(fit.tokens, fit.steps, strict=True))[lengths:]:
            found[tokens].append(seconds / batch_size)
    return {tokens: statistics.median(found[tokens]) for tokens in sorted(found)}


def draw(file: Path, series: dict[str, dict[int, float]], lines: dict[str, tuple[float, float]]) -> None:
    """Write the plot of all series and their fits, both axes logarithmic."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, points in series.items():
        tokens = np.array(list(points))
        intercept, slope = lines[name]
        (dots,) = axes.plot(tokens, list(points.values()), "o", label=name)
        axes.plot(tokens, intercept + slope * tokens, color=dots.get_color(), label=f"{slope * 1e6:.3g} µs per token")
    axes.set(xscale="log", yscale="log", xlabel="prompt, tokens", ylabel="training step, seconds per question")
    axes.legend()
    figure.savefig(file, dpi=120)


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longest", type=int, default=2000, help="tokens, up to 4000")
    parser.add_argument("--batch_size", type=int, default=4, help="questions per step and length, on both paths")
    parser.add_argument("--epochs", type=int, default=30, help="epochs over kept prompts, the first not counted")
    parser.add_argument("--plot", type=Path, default=Path(__file__).with_suffix(".png"), help="file of the plot")
    options = parsed(parser, longest=200, batch_size=2, epochs=2, plot=Path(tempfile.gettempdir(), "prompt_length.png"))
    with tempfile.TemporaryDirectory() as name:
        place = Place(Path(name), options.batch_size)
        save_model(place.model)
        questions = long_questions(place, np.geomspace(50, options.longest, 8).round().astype(int).tolist())
        write_quiz(place.folder / "quiz", train=questions, validation=questions[:2])
        print(machine_line())
        # Whole prompts take so long that a second epoch is enough; in turn, so that both see the same machine.
        kept = [in_fresh_process(our_fit, place, "auto", "answer", False, options.epochs)]
        whole = [in_fresh_process(our_fit, place, "never", "answer", False, 2)]
        kept.append(in_fresh_process(our_fit, place, "auto", "answer", False, options.epochs))
    paths = {"full prompts": whole, "answer path": kept}
    series = {path: per_question(fits, place.batch_size) for path, fits in paths.items()}
    print("tokens   full prompts s   answer path s   per question")
    for tokens, seconds in series["full prompts"].items():
        print(f"{tokens:6} {seconds:16.4f} {series['answer path'][tokens]:15.5f}")
    lines = {}
    for path, points in series.items():
        fit = linregress(list(points), list(points.values()))
        lines[path] = (float(fit.intercept), float(fit.slope))
        print(f"{path}: {fit.intercept * 1e3:.2f} ms + {fit.slope * 1e6:.3f} µs per token, r2 {fit.rvalue**2:.4f}")
    draw(options.plot, series, lines)
    tokens, seconds = list(series["full prompts"].items())[-1]
    step = cost(tokens * place.batch_size, place.batch_size, 1, tokens / 2)
    print(f"full prompts, {roofline(torch.float32).line(*step, seconds * place.batch_size)}")
    print(f"prompt_length {lines['answer path'][1] / lines['full prompts'][1]:.5f}")


if __name__ == "__main__":
    main()
