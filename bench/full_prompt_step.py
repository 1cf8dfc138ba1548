"""How long is a training step over whole prompts: Hugging Face's Trainer against ours where nothing is kept?

The same 0-shot MMLU batches, model, loss and optimiser. Ours runs whole prompts at scope ``answer`` and at scope
``all`` (which is what the stock model's routers do: the same fit, so the losses agree), and streams: prompts computed
anew at each step, without gradients, then one token per question. Every fit runs in a process of its own, the sides in
turn. Run it as ``python bench/full_prompt_step.py``.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder that holds bench/

import torch

from bench.mid_size import Place, cost, in_fresh_process, machine_line, mmlu_questions, save_model, write_quiz
from bench.roofline import roofline
from bench.sides import Fit, huggingface_fit, our_fit
from bench.smoke import parsed

SIDES: dict[str, tuple[Any, ...]] = {
    "Trainer": (huggingface_fit,),
    "ours, never, answer": (our_fit, "never", "answer"),
    "ours, never, all": (our_fit, "never", "all"),
    "ours, streaming": (our_fit, "always", "answer", True),
}
"""Per side the function and what it takes behind the place: the answer path, the scope, and whether it streams."""
SAME = (("Trainer", "ours, never, all"), ("ours, never, answer", "ours, streaming"))
"""Sides that fit the same function, so that their losses have to agree at every step."""


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=32, help="questions per step, on all sides")
    parser.add_argument("--steps", type=int, default=2, help="steps of each fit")
    parser.add_argument("--repeats", type=int, default=3, help="fits of each side; the median of all steps counts")
    parser.add_argument("--longest", type=int, default=256, help="tokens; bounds the Trainer's memory")
    options = parsed(parser, batch_size=2, steps=1, repeats=1, longest=80)
    with tempfile.TemporaryDirectory() as name:
        place = Place(Path(name), options.batch_size)
        chosen = mmlu_questions(options.batch_size * options.steps, options.longest)
        save_model(place.model)
        write_quiz(place.folder / "quiz", train=chosen, validation=chosen[:2])
        lengths = [len(one.ids_S) for one in place.quiz().encoded("train").prompts]
        mean = statistics.mean(lengths)
        print(
            f"{machine_line()}\n{len(lengths)} MMLU questions, {mean:.0f} tokens on average, batch {place.batch_size}"
        )
        fits: dict[str, list[Fit]] = {side: [] for side in SIDES}
        for _ in range(options.repeats):
            for side, (function, *arguments) in SIDES.items():
                fits[side].append(in_fresh_process(function, place, *arguments))
    seconds = {side: statistics.median(step for fit in found for step in fit.steps) for side, found in fits.items()}
    print("side               step s   fastest   slowest   Trainer / it   losses")
    for side, found in fits.items():
        losses = " ".join(f"{loss:.6f}" for loss in found[-1].losses)
        steps = [step for fit in found for step in fit.steps]
        times = f"{seconds[side]:7.2f} {min(steps):9.2f} {max(steps):9.2f} {seconds['Trainer'] / seconds[side]:14.2f}"
        print(f"{side:17} {times}   {losses}")
    for one, other in SAME:
        pairs = zip(fits[one][-1].losses, fits[other][-1].losses, strict=True)
        print(f"{one} and {other}: losses apart by at most {max(abs(a - b) for a, b in pairs):.1e}")
    best, per_step = roofline(torch.float32), mean * place.batch_size
    print(f"Trainer, {best.line(*cost(per_step, per_step, 1, mean / 2), seconds['Trainer'])}")
    whole = cost(per_step, place.batch_size, 1, mean / 2)
    print(f"ours, never, answer, {best.line(*whole, seconds['ours, never, answer'])}")
    print(f"full_prompt_step_all {seconds['Trainer'] / seconds['ours, never, all']:.2f}")
    print(f"full_prompt_step_whole {seconds['Trainer'] / seconds['ours, never, answer']:.2f}")
    print(f"full_prompt_step {seconds['Trainer'] / seconds['ours, streaming']:.2f}")


if __name__ == "__main__":
    main()
