"""What does a dense straight-through gradient change, and what does it take at OLMoE-1B-7B's layer size?

First, on the nano model: two fits that differ in nothing but ``DenseMixerHead`` are compared on the same validation
questions, layer by layer: the share of chosen experts both agree on, the divergence of their probabilities, and how far
each moved the router's weight. Second, one layer of OLMoE-1B-7B with random weights in bfloat16 on the CPU: the most
memory that a forward and backward pass takes beyond the weights, plain and dense, each in a process of its own. Run it
as ``python bench/dense_gradient.py``.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder that holds bench/

import torch
from safetensors.torch import load_file
from transformers import OlmoeConfig
from transformers.models.olmoe.modeling_olmoe import OlmoeExperts

from bench.mid_size import in_fresh_process, machine_line
from moe_tune.base.memory import peak_memory
from moe_tune.data.module import QuizDataModule
from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.gates.gated_model import TunedRouters
from moe_tune.heads.dense_mixer import DenseMixerHead
from moe_tune.heads.retuned import RetunedHead
from moe_tune.models.base_model import BaseModel
from moe_tune.routing import RouterOutput, ScoringRule, stable_top_k
from moe_tune.settings.tuner_cli import run

ROOT = Path(__file__).resolve().parents[1]
OVERLAYS = {"plain": "retuned", "dense": "dense_mixer"}


def fitted(folder: Path, questions: int) -> dict[str, dict[str, torch.Tensor]]:
    """Return the router weights of both fits by layer name.

    Args:
        folder: Where runs and prompt caches go.
        questions: Training questions.
    """
    weights = {}
    for side, overlay in OVERLAYS.items():
        words = ["fit", f"--config={ROOT}/configs/nano.yaml", f"--config={ROOT}/configs/logger/none.yaml"]
        words += [f"--config={ROOT}/configs/head/{overlay}.yaml", f"--data.limit_train={questions}"]
        words += ["--trainer.max_epochs=1", "--trainer.enable_progress_bar=false", "--test_after_fit=false"]
        words += [f"--runs_root={folder / 'runs'}", f"--model.answer_path.folder={folder / 'kept'}", f"--name={side}"]
        path = run(words)
        saved = load_file(path / "checkpoints" / "last.ckpt" / "router.safetensors")
        weights[side] = {name.replace("parts.retuned.", ""): value for name, value in saved.items()}
    return weights


@torch.no_grad()
def routed(weights: dict[str, torch.Tensor], quiz: QuizDataModule) -> dict[int, list[RouterOutput]]:
    """Return the routing of the validation questions' answer tokens by layer, batch by batch."""
    model, family = BaseModel("nano").load()
    routers = TunedRouters(model, family, RetunedHead(), "all")
    routers.load_state(weights, "the fit")
    found: dict[int, list[RouterOutput]] = {}
    for batch in quiz.val_dataloader():
        model(input_ids=batch.input_ids_BS, attention_mask=batch.attention_mask_BS)
        for output in routers.trace.at("answer"):
            found.setdefault(output.layer, []).append(output)
    return found


def differences(weights: dict[str, dict[str, torch.Tensor]], questions: int) -> float:
    """Print how the two routers differ, and return the mean share of chosen experts they agree on."""
    quiz = QuizDataModule(NanoQuiz(), protocol="nano_quiz", batch_size=256, limit_validation=questions)
    base = BaseModel("nano")
    quiz.prepare(base.load_tokenizer(), int(base.load_config().max_position_embeddings))
    sides = {side: routed(weights[side], quiz) for side in OVERLAYS}
    pretrained = TunedRouters(*base.load(), RetunedHead(), "all").state()
    print("layer   same experts   KL(plain || dense), nats   |dW|/|W| plain   dense   between them")
    overlaps = []
    for layer, outputs in sides["plain"].items():
        name = f"layers.{layer}.weight"
        same, divergence, tokens = 0.0, 0.0, 0
        for plain, dense in zip(outputs, sides["dense"][layer], strict=True):
            shared = (plain.experts_TK[:, :, None] == dense.experts_TK[:, None, :]).any(-1).float().mean(-1)
            logs = plain.probs_TE.clamp(min=1e-30).log() - dense.probs_TE.clamp(min=1e-30).log()
            same, divergence = same + float(shared.sum()), divergence + float((plain.probs_TE * logs).sum())
            tokens += len(shared)
        moved = [float((weights[side][name] - pretrained[name]).norm() / pretrained[name].norm()) for side in OVERLAYS]
        apart = float((weights["plain"][name] - weights["dense"][name]).norm() / pretrained[name].norm())
        overlaps.append(same / tokens)
        row = f"{overlaps[-1]:12.4f} {divergence / tokens:26.4f} {moved[0]:16.3f} {moved[1]:7.3f} {apart:14.3f}"
        print(f"{layer:5} {row}")
    return sum(overlaps) / len(overlaps)


def peak_bytes(side: str, tokens: int) -> tuple[float, float]:
    """Return the most memory of a forward and backward pass of a layer beyond its weights, in MB, and its seconds.

    Args:
        side: ``plain`` or ``dense``.
        tokens: Tokens routed at once.
    """
    config = OlmoeConfig(hidden_size=2048, intermediate_size=1024, num_experts=64, num_experts_per_tok=8)
    config._experts_implementation = "grouped_mm"
    with torch.device("meta"):
        experts: Any = OlmoeExperts(config).to(torch.bfloat16)
    experts = experts.to_empty(device="cpu").requires_grad_(False)
    for weight in experts.parameters():
        weight.uniform_(-0.02, 0.02)
    hidden_TD = torch.randn(tokens, 2048, dtype=torch.bfloat16)
    logits_TE = torch.randn(tokens, 64, requires_grad=True)
    rule = ScoringRule(8, 64, renormalise=False)
    with torch.no_grad():
        experts(hidden_TD[:8], torch.arange(8).expand(8, 8), torch.ones(8, 8, dtype=torch.bfloat16))  # warm
    before = peak_memory()
    start = time.perf_counter()
    probs_TE = rule.probabilities(logits_TE)
    experts_TK = stable_top_k(logits_TE.detach(), 8)
    weights_TK = rule.weights(probs_TE, experts_TK)
    output = RouterOutput(logits_TE, probs_TE, weights_TK, experts_TK, torch.ones(tokens, dtype=torch.bool), 0)
    mixed_TD = experts(hidden_TD, experts_TK, weights_TK.to(torch.bfloat16))
    if side == "dense":
        mixed_TD = DenseMixerHead().mix(mixed_TD, hidden_TD, output, experts)
    mixed_TD.float().square().sum().backward()
    seconds = time.perf_counter() - start
    return (peak_memory() - before) / 2**20, seconds


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=12800, help="nano training questions")
    parser.add_argument("--tokens", type=int, nargs="+", default=[32, 512, 2048], help="tokens routed at once")
    options = parser.parse_args()
    print(machine_line())
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        Path("pyproject.toml").touch()
        overlap = differences(fitted(Path(name), options.questions), 2048)
    print("tokens   plain MB, s      dense MB, s      all outputs of all experts would take MB")
    for tokens in options.tokens:
        plain, dense = (in_fresh_process(peak_bytes, side, tokens) for side in OVERLAYS)
        every = 64 * tokens * 2048 * 2 / 1e6
        print(f"{tokens:6} {plain[0]:8.0f} {plain[1]:6.2f} {dense[0]:9.0f} {dense[1]:6.2f} {every:10.0f}")
    print(f"dense_gradient_peak_mb {dense[0]:.0f}")
    print(f"dense_gradient {overlap:.4f}")


if __name__ == "__main__":
    os.environ.setdefault("WANDB_MODE", "disabled")
    main()
