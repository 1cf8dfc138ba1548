"""How long is a training epoch: Hugging Face's Trainer, plain Lightning, and ours with its prompts computed once?

The same 96 real MMLU questions, model and optimiser on all sides; the top five routers train. The Trainer runs
twice: as it comes, in its own shuffled order, and with our batches of like length, so that losses can be compared. We
run with our default loss over the four letters and with theirs over the vocabulary, whose losses can be compared. The
stock model's routers act on every token, ours at the answer position alone (which is what lets prompts be computed
once), so the losses agree at the first step and come apart with the updates; ``full_prompt_step.py`` compares like
scopes. Every fit runs in a process of its own, the sides in turn. The other sides' logits need about 12 GB of memory.
Run it as ``python bench/fit_epoch.py``.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder that holds bench/

import torch

from bench.mid_size import TUNED, Place, cost, in_fresh_process, machine_line, mmlu_questions, save_model, write_quiz
from bench.roofline import roofline
from bench.sides import Fit, huggingface_fit, lightning_fit, our_fit
from bench.smoke import parsed

CACHED_EPOCHS = 5
"""Epochs read from the cache by one fresh process; the median counts, and the first is told beside it."""


def by_epoch(fit: Fit) -> list[float]:
    """Return the seconds of each epoch of a fit over kept prompts."""
    size = len(fit.steps) // CACHED_EPOCHS
    return [sum(fit.steps[start : start + size]) for start in range(0, len(fit.steps), size)]


def agreement(one: Fit, other: Fit) -> str:
    """Return in words how far two fits agree."""
    apart = [abs(a - b) for a, b in zip(one.losses, other.losses, strict=False)]  # of the first epoch
    same = sum(one.letters[index] == other.letters[index] for index in one.letters) / len(one.letters)
    return f"losses apart by {apart[0]:.1e} at the first step, at most {max(apart):.1e}; same letters {same:.4f}"


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=96, help="a multiple of the batch size")
    parser.add_argument("--batch_size", type=int, default=32, help="questions per step, on all sides")
    parser.add_argument("--longest", type=int, default=400, help="tokens; bounds the other sides' memory")
    parser.add_argument("--repeats", type=int, default=1, help="epochs of each side; the median counts")
    options = parsed(parser, questions=4, batch_size=2, longest=80)
    if options.questions % options.batch_size:
        parser.error("--questions has to be a multiple of --batch_size, so that all sides have the same batches")
    with tempfile.TemporaryDirectory() as name:
        place = Place(Path(name), options.batch_size)
        chosen = mmlu_questions(options.questions, options.longest)
        save_model(place.model)
        write_quiz(place.folder / "quiz", train=chosen, validation=chosen)
        prompts = place.quiz().encoded("train").prompts
        mean = sum(len(one.ids_S) for one in prompts) / len(prompts)
        print(
            f"{machine_line()}\n{len(prompts)} MMLU questions, {mean:.0f} tokens on average, batch {place.batch_size}"
        )
        sides = ("Trainer", "same batches", "Lightning", "ours, first", "ours, cached", "vocabulary")
        fits: dict[str, list[Fit]] = {side: [] for side in sides}
        for _ in range(options.repeats):
            shutil.rmtree(place.folder / "prompts", ignore_errors=True)
            ours = partial(in_fresh_process, our_fit, place, "auto")
            fits["ours, first"].append(ours(task_loss="letters"))
            fits["Trainer"].append(in_fresh_process(huggingface_fit, place, True))
            fits["same batches"].append(in_fresh_process(huggingface_fit, place))
            fits["ours, cached"].append(ours(epochs=CACHED_EPOCHS, task_loss="letters"))
            fits["vocabulary"].append(ours(epochs=CACHED_EPOCHS))
            fits["Lightning"].append(in_fresh_process(lightning_fit, place))
    print("side           epoch s   with model loading s   letters A/B/C/D   every step s")
    epochs = {}
    for side, found in fits.items():
        each = [by_epoch(fit) if side in ("ours, cached", "vocabulary") else [fit.seconds] for fit in found]
        epochs[side] = statistics.median(seconds for fit in each for seconds in fit)
        total = statistics.median(fit.total for fit in found)
        given = "/".join(str(list(found[-1].letters.values()).count(index)) for index in range(4))
        steps = " ".join(f"{step:.2f}" for fit in found for step in fit.steps)
        print(f"{side:13} {epochs[side]:8.2f} {total:22.2f}   {given:15}   {steps}")
    first = statistics.median(by_epoch(fit)[0] for fit in fits["ours, cached"])
    print(f"ours, cached, first epoch of a process {first:.2f} s: {epochs['Trainer'] / first:.1f} times as fast")
    print(f"cache pass {epochs['ours, first'] - epochs['ours, cached']:.2f} s")
    print(f"Trainer with our batches and Lightning: {agreement(fits['same batches'][-1], fits['Lightning'][-1])}")
    print(f"Trainer with our batches and ours: {agreement(fits['same batches'][-1], fits['vocabulary'][-1])}")
    best = roofline(torch.float32)
    batches, tokens = len(fits["Trainer"][-1].steps), sum(len(one.ids_S) for one in prompts)
    print(f"Trainer, {best.line(*cost(tokens, tokens, batches, mean / 2), epochs['Trainer'])}")
    for side, head_passes in (("ours, cached", 0), ("vocabulary", 2)):
        work = cost(len(prompts), len(prompts), batches, mean, 2 * TUNED, head_passes)
        print(f"{side}, {best.line(*work, epochs[side])}")
    print(f"fit_epoch_same_batches {epochs['same batches'] / epochs['ours, cached']:.1f}")
    print(f"fit_epoch_first_epoch_share {epochs['ours, first'] / epochs['Trainer']:.4f}")
    print(f"fit_epoch_vocabulary {epochs['Trainer'] / epochs['vocabulary']:.1f}")
    print(f"fit_epoch {epochs['Trainer'] / epochs['ours, cached']:.1f}")


if __name__ == "__main__":
    main()
