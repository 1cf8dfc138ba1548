"""How much dearer are 16 heads than one on the same kept prompts, and how long is a 24-point grid with training?

First, on the mid-size OLMoE with real MMLU questions: one retuned head and then 16 of them (one weight matrix per layer
each, all different) are evaluated on the same cached questions, in turns, metrics included; each head's letters are
compared with those it gives alone. Second, on the nano model: 24 arms of an experiment (8 learning rates, 3 choices of
layers), each trained, validated and tested on its own prompts, reading one cache. Run it as
``python bench/many_heads.py``.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder that holds bench/

import torch
import yaml

from bench.mid_size import Place, machine_line, make_tuner, mmlu_questions, plain_trainer, save_model, write_quiz
from bench.smoke import parsed, smoking
from moe_tune.heads.retuned import RetunedHead
from moe_tune.settings.running import run
from moe_tune.settings.workbench import Workbench
from moe_tune.studies.bench import ArmRun
from moe_tune.studies.experiment import run_experiment
from moe_tune.studies.experiment_file import load_experiment
from moe_tune.studies.grid import Grid, Point

ROOT = Path(__file__).resolve().parents[1]
LAYERS = "last-5"


def points(place: Place, count: int) -> list[Point]:
    """Return retuned heads whose weights are moved at random, each by another amount."""
    tuner = make_tuner(place, RetunedHead(), "always")
    tuner.configure_model()
    made = []
    for index in range(count):
        draw = torch.Generator().manual_seed(index)
        state = {
            name: value + 0.05 * torch.randn(value.shape, generator=draw) for name, value in tuner.gated.state().items()
        }
        made.append(Point(f"head {index}", RetunedHead(), LAYERS, state, tuner.gated.fingerprint))
    return made


def timed(place: Place, heads: list[Point]) -> tuple[float, list[torch.Tensor]]:
    """Return the seconds of an evaluation from kept prompts, and each head's letters."""
    grid = Grid(make_tuner(place, RetunedHead(), "always"), heads, place.quiz(), plain_trainer(place))
    grid.evaluate("validation")  # warm: the model is loaded, the caches are open
    batches = list(grid.examiner.quiz.val_dataloader())
    start = time.perf_counter()
    results = grid.evaluate("validation", batches)
    seconds = time.perf_counter() - start
    return seconds, [one.log_probs_QA.argmax(-1) for one in results]


def grid(folder: Path, questions: int) -> float:
    """Return the seconds of a 24-point grid on nano: every point trained, validated and tested."""
    rates = [0.0003, 0.001, 0.003, 0.006, 0.01, 0.02, 0.03, 0.1]
    arms = {"baseline": ["configs/head/identity.yaml"]}
    for rate in rates[:1] if smoking() else rates:
        for layers in ("last-1", "last-2", "all"):
            arms[f"lr{rate}-{layers}"] = [f"optimizer.lr={rate}", f"model.layers={layers}"]
    study = folder / "experiments" / "grid"
    study.mkdir(parents=True)
    settings = {
        "name": "grid",
        "claim": "Which learning rate and which layers?",
        "base": [str(ROOT / "configs/nano.yaml"), str(ROOT / "configs/logger/none.yaml")],
        "seeds": [0],
        "baseline": "baseline",
        "splits": {"test": "quiz layout"},
        "arms": {
            name: [
                *(str(ROOT / one) if one.endswith(".yaml") else one for one in arm),
                *(f"data.limit_{split}={questions}" for split in ("train", "validation", "test")),
                "data.test_protocols=[]",
                "trainer.max_epochs=1",
                "trainer.enable_progress_bar=false",
                f"model.answer_path.folder={folder / 'kept'}",
            ]
            for name, arm in arms.items()
        },
    }
    (study / "experiment.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    (folder / "pyproject.toml").touch()
    workbench = Workbench()

    tested = "false" if smoking() else "true"

    def execute(arm: ArmRun) -> Path:
        words = ["fit", *arm.argv, f"--name={arm.name}", f"--runs_root={folder / 'runs'}", f"--test_after_fit={tested}"]
        return run(words, workbench=workbench).path

    start = time.perf_counter()
    if smoking():  # nothing is compared: a smoke run reads no test question
        plan = load_experiment(study)
        for name, arm in plan.arms.items():
            execute(ArmRun(name, 0, plan.arguments(arm, 0), name, fresh=False))
    else:
        run_experiment(study, execute)
    return time.perf_counter() - start


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=16, help="heads evaluated in one pass")
    parser.add_argument("--questions", type=int, default=96, help="MMLU questions")
    parser.add_argument("--batch_size", type=int, default=32, help="questions per batch")
    parser.add_argument("--repeats", type=int, default=5, help="turns; the median counts")
    parser.add_argument("--grid_questions", type=int, default=1024, help="questions of each split of the nano grid")
    options = parsed(parser, heads=2, questions=4, batch_size=2, repeats=1, grid_questions=16)
    print(machine_line())
    with tempfile.TemporaryDirectory() as name:
        place = Place(Path(name), options.batch_size)
        save_model(place.model)
        write_quiz(place.folder / "quiz", validation=(chosen := mmlu_questions(options.questions, 400)), train=chosen)
        heads = points(place, options.heads)
        one, many = [], []
        for _ in range(options.repeats):
            one.append(timed(place, heads[:1]))
            many.append(timed(place, heads))
        alone = [timed(place, [head])[1][0] for head in heads]
    same = torch.stack([a == b for a, b in zip(alone, many[-1][1], strict=True)]).float().mean()
    single, together = (statistics.median(seconds for seconds, _ in found) for found in (one, many))
    print(f"one head {single:.3f} s, {options.heads} heads {together:.3f} s, {len(chosen)} questions")
    print(f"letters as alone: {same:.4f}")
    with tempfile.TemporaryDirectory() as name:
        before = os.getcwd()
        os.chdir(name)
        seconds = grid(Path(name), options.grid_questions)
        os.chdir(before)
    print(f"many_heads_grid_seconds {seconds:.1f}")
    print(f"many_heads {together / single:.2f}")


if __name__ == "__main__":
    main()
