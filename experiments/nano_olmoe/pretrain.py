"""Pretrain the nano OLMoE that moe_tune ships: OLMoE's own architecture at 1.7 M parameters, in minutes on a CPU.

python experiments/nano_olmoe/pretrain.py --out FOLDER
python experiments/nano_olmoe/pretrain.py --out FOLDER --seed 2 --architecture qwen3_moe
"""

import argparse
import datetime
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
import transformers
from evidence import measure
from nano_tokenizer import build_tokenizer
from rich.progress import Progress, TextColumn
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    OlmoeConfig,
    OlmoeForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from transformers.models.olmoe.modeling_olmoe import load_balancing_loss_func

from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.data.protocol import load_protocol
from moe_tune.data.question import LETTERS, Question, number_questions

ARCHITECTURES = ("olmoe", "qwen3_moe")
THREADS = 1
"""One thread: the bits repeat (with two, sums came out in another order from run to run), and a busy machine costs no
more than its share."""


@dataclass(frozen=True)
class Recipe:
    """The figures of a pretraining run.

    Args:
        steps: Optimizer steps.
        batch: Questions per step.
        learning_rate: The peak of a one-cycle schedule.
        gate_rate: The gates' learning rate as a multiple of the others'. Slower gates stay soft: the eight weights of
            a token remain near uniform.
        quiz_share: Share of the questions in the quiz layout; the others are in the textbook layout.
        language_weight: Weight of next-token prediction over the prompt, beside 1 for the answer letter.
        balance_weight: Weight of the load balancing loss over all tokens.
        seed: Seed of the weights, of the questions drawn, and of their order.
        architecture: One of ``ARCHITECTURES``.
    """

    steps: int = 450
    batch: int = 128
    learning_rate: float = 2e-3
    gate_rate: float = 0.3
    quiz_share: float = 0.001
    language_weight: float = 0.1
    balance_weight: float = 0.01
    seed: int = 1
    architecture: str = "olmoe"


def build_model(words: int, architecture: str = "olmoe") -> OlmoeForCausalLM | Qwen3MoeForCausalLM:
    """Return an untrained model: 4 layers of width 64, each with 64 experts of width 32 and 8 of them per token.

    Args:
        words: Size of the vocabulary.
        architecture: ``olmoe``, or ``qwen3_moe``, whose weights of the chosen experts sum to 1.
    """
    sizes: dict[str, Any] = {
        "vocab_size": words,
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "max_position_embeddings": 1024,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 2,
    }
    options: dict[str, Any] = {"experts_implementation": "grouped_mm", "dtype": torch.float32}
    if architecture == "olmoe":
        return OlmoeForCausalLM._from_config(OlmoeConfig(intermediate_size=32, **sizes), **options)
    heads = {"num_key_value_heads": 4, "head_dim": 16, "norm_topk_prob": True}
    return Qwen3MoeForCausalLM._from_config(Qwen3MoeConfig(moe_intermediate_size=32, **heads, **sizes), **options)


def draw_questions(split: str, count: int, seed: int) -> list[Question]:
    """Return questions of one split of the nano quiz.

    Args:
        split: The split's name.
        count: How many, at least 1.
        seed: The quiz's seed; a question is in the same split under every seed.
    """
    rows = [row.values for row in NanoQuiz(seed=seed, **{split: count}).rows(split)]
    return number_questions((row["subject"], row["question"], tuple(row["choices"]), row["answer"]) for row in rows)


def lessons(recipe: Recipe) -> tuple[list[str], Tensor]:
    """Return the prompts a run sees, in order, and the index of each right answer.

    Args:
        recipe: Says how many, in which mix, and from which seed.
    """
    rng = Random(recipe.seed)
    questions = draw_questions("train", recipe.steps * recipe.batch, recipe.seed)
    rng.shuffle(questions)
    textbook, quiz = load_protocol("nano_textbook"), load_protocol("nano_quiz")
    prompts = [(quiz if rng.random() < recipe.quiz_share else textbook).prompt(question) for question in questions]
    return prompts, torch.tensor([question.answer for question in questions])


def losses(model: PreTrainedModel, ids: Tensor, mask: Tensor, gold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the answer, language and load balancing losses of a batch.

    Args:
        model: The model in training.
        ids: Token ids of the prompts, padded on the right.
        mask: 1 at real tokens, 0 at padding.
        gold: Token id of each right letter.

    Shape:
        ``ids`` and ``mask``: (questions, longest prompt); ``gold``: (questions,); each loss a scalar.
    """
    config = model.config
    outputs = model.model(ids, attention_mask=mask, use_cache=False, output_router_logits=True)
    hidden = outputs.last_hidden_state
    answer = F.cross_entropy(model.lm_head(hidden[torch.arange(len(ids)), mask.sum(1) - 1]), gold)
    following = ids.masked_fill(mask == 0, -100)[:, 1:]
    language = F.cross_entropy(model.lm_head(hidden[:, :-1]).flatten(0, 1), following.flatten())
    balance = load_balancing_loss_func(outputs.router_logits, config.num_experts, config.num_experts_per_tok, mask)
    return answer, language, balance


def pretrain(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Return a model trained from scratch; the same recipe gives the same bits on the same machine.

    Args:
        recipe: The figures of the run.
        tokenizer: The tokenizer the model is made for.
    """
    torch.set_num_threads(THREADS)
    torch.manual_seed(recipe.seed)
    model: Any = build_model(len(tokenizer), recipe.architecture)
    prompts, answers = lessons(recipe)
    gold = torch.tensor(tokenizer.convert_tokens_to_ids(list(LETTERS[:4])))[answers]
    gates = [layer.mlp.gate.weight for layer in model.model.layers]
    others = [weight for name, weight in model.named_parameters() if not name.endswith("mlp.gate.weight")]
    optimizer = torch.optim.AdamW([{"params": others}, {"params": gates}])
    peaks = [recipe.learning_rate, recipe.learning_rate * recipe.gate_rate]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=recipe.steps)
    with Progress(*Progress.get_default_columns(), TextColumn("{task.fields[figures]}")) as progress:
        task = progress.add_task("pretraining", total=recipe.steps, figures="")
        for step in range(recipe.steps):
            batch = slice(step * recipe.batch, (step + 1) * recipe.batch)
            encoded = tokenizer(prompts[batch], return_tensors="pt", padding=True)
            answer, language, balance = losses(model, encoded["input_ids"], encoded["attention_mask"], gold[batch])
            optimizer.zero_grad()
            (answer + recipe.language_weight * language + recipe.balance_weight * balance).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            figures = f"answer {answer:.2f}  language {language:.2f}  balance {balance:.2f}"
            progress.update(task, advance=1, figures=figures)
    return model.eval()


def main() -> None:
    """Pretrain, save a stock Hugging Face folder, and write the measured figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the model and its tokenizer")
    parser.add_argument("--results", type=Path, help="file for the measured figures (default: pretrain.json in --out)")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="fewer for a trial run (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=Recipe.seed, help="of weights and questions (default: %(default)s)")
    parser.add_argument(
        "--architecture", choices=ARCHITECTURES, default=Recipe.architecture, help="(default: %(default)s)"
    )
    arguments = parser.parse_args()
    recipe = Recipe(steps=arguments.steps, seed=arguments.seed, architecture=arguments.architecture)
    tokenizer = build_tokenizer()
    wall, cpu = time.perf_counter(), time.process_time()
    model = pretrain(recipe, tokenizer)
    figures: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "threads": THREADS,
        "recipe": asdict(recipe),
        "parameters": model.num_parameters(),
        "wall_seconds": round(time.perf_counter() - wall),
        "cpu_seconds": round(time.process_time() - cpu),
    }
    model.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    test = draw_questions("test", NanoQuiz().known_sizes["test"], seed=0)
    figures["questions"] = len(test)
    figures["layouts"] = {
        name: measure(model, tokenizer, test, load_protocol(name)) for name in ("nano_textbook", "nano_quiz")
    }
    results = arguments.results or arguments.out / "pretrain.json"
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(results.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
