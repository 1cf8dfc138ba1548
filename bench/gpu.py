"""What one CUDA card does with OLMoE-1B-7B's sizes, and whether all is right there: a command for a bare machine.

Random weights in bfloat16 and real MMLU questions; nothing is downloaded. In turn: the card's fastest product, a pass
over the prompts, training epochs on kept prompts, on full prompts and by Hugging Face's Trainer, the memory of each, a
fit in one process under NCCL, and the tests marked ``gpu``, among them the identity of every family. Run it as
``python bench/gpu.py``. With ``--smoke`` it runs on the CPU, which shows that the command is whole.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder that holds bench/
os.environ["HF_HUB_OFFLINE"] = "1"  # read when the libraries are imported

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from bench.mid_size import machine_line
from bench.random_model import RandomModel
from bench.real_size import Clock, build_quiz, counted, now, pass_flops, run
from bench.sides import peer_collator, peer_rows, trained_by_huggingface, with_top_routers
from bench.smoke import parsed, smoking
from moe_tune.answer_path.settings import AnswerPath
from moe_tune.base.memory import peak_memory
from moe_tune.data.module import QuizDataModule
from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.heads.retuned import RetunedHead
from moe_tune.models.shapes import shape_of
from moe_tune.planning.machine import data_sheet
from moe_tune.planning.report import costs_of
from moe_tune.settings.quiet import quieten
from moe_tune.tuner.router_tuner import RouterTuner

ROOT = Path(__file__).resolve().parents[1]
SIZE = 8192
"""Rows and columns of the product that a card is measured with."""
REPEATS = 20
SMOKE_TESTS = ["-m", "not slow", "tests/conformance/test_found_families.py", "-k", "changes_no_bit and mixtral"]


def fastest_product(device: str) -> float:
    """Return FLOP/s of the fastest of some products of square matrices in bfloat16."""
    size = 256 if smoking() else SIZE
    one, other = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    taken = []
    for _ in range(REPEATS):
        start = now()
        one @ other
        taken.append(now() - start)
    return 2 * size**3 / min(taken)


def memory_of(device: str) -> float:
    """Return the most GiB held since the last call: by tensors on a card; on the CPU by the process, ever."""
    if device == "cpu":
        return peak_memory() / 2**30
    held = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return held


def trainer_on(device: str, **options: Any) -> Trainer:
    """Return a plain Lightning trainer."""
    off = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    accelerator = "cpu" if device == "cpu" else "gpu"
    return Trainer(accelerator=accelerator, devices=1, limit_val_batches=0, num_sanity_val_steps=0, **off, **options)


def full_prompt_epoch(base: RandomModel, quiz: QuizDataModule, device: str) -> float:
    """Return the seconds of our second training epoch on full prompts, scope ``answer``."""
    clock = Clock()
    tuner = RouterTuner(base, RetunedHead(), answer_path=AnswerPath(use="never"))
    trainer_on(device, max_epochs=2, callbacks=[clock]).fit(tuner, quiz)
    tuner.gated.detach()
    return clock.spans[-1]


def nano_heads(device: str, **options: Any) -> dict[str, Tensor]:
    """Return the heads after a short fit of the nano model in one process."""
    seed_everything(0)
    quiz = QuizDataModule(NanoQuiz(), limit_train=64, limit_validation=16, limit_test=16, batch_size=16)
    tuner = RouterTuner(head=RetunedHead(), answer_path=AnswerPath(use="never"))
    trainer_on(device, max_epochs=1, **options).fit(tuner, quiz)
    return {name: value.cpu() for name, value in tuner.gated.state().items()}


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return by how much two fits' heads differ at most."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def main() -> int:
    """Run the bench; return 1 if a test failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=1024, help="training questions on kept prompts")
    parser.add_argument("--full", type=int, default=128, help="training questions on full prompts, on both sides")
    parser.add_argument("--test", type=int, default=256, help="validation and test questions")
    given = parsed(parser, train=4, full=4, test=4)
    device = "cpu" if smoking() else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("expected a CUDA card but torch.cuda.is_available() is false; --smoke runs on the CPU")
    quieten()
    print(machine_line())
    print("no card: the CPU" if device == "cpu" else f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}")
    peak = fastest_product(device)
    base = RandomModel(
        "random OLMoE-1B-7B",
        tokenizer="olmo-eval",
        dtype="bfloat16",
        experts_implementation="eager" if smoking() else "auto",
        depth=5 if smoking() else None,
        device=device,
    )
    kept, few = build_quiz(base, given.train, given.test), build_quiz(base, given.full, given.test)
    with tempfile.TemporaryDirectory() as folder:
        took = run(base, kept, Path(folder), epochs=3)
    memory = {"kept prompts": memory_of(device)}
    full = full_prompt_epoch(base, few, device)
    memory["full prompts"] = memory_of(device)
    model = with_top_routers(base.held[0].to(device))
    rows, size = peer_rows(few), few.batch_size
    peer = trained_by_huggingface(model, rows, peer_collator(few), size, use_cpu=device == "cpu").seconds
    memory["Trainer"] = memory_of(device)
    model.cpu()

    split = counted(kept, "train")
    # Only the sizes are read of it: whose data sheet it is does not matter.
    costs = costs_of(RouterTuner(base), shape_of(base.load_config()), data_sheet("H100", torch.bfloat16))
    tokens = split.kept + split.questions
    print(f"{split.questions} and {given.full} training questions of {split.length:.0f} tokens")
    for name, questions, seconds in (
        ("kept prompts", split.questions, took["epoch"]),
        ("full prompts", given.full, full),
        ("Trainer", given.full, peer),
    ):
        print(f"{name:<14}{1e3 * seconds / questions:>10.2f} ms a question{memory[name]:>9.2f} GiB")
    backend = "gloo" if device == "cpu" else "nccl"
    alone = nano_heads(device)
    apart = largest_difference(alone, nano_heads(device, strategy=DDPStrategy(process_group_backend=backend)))
    print(f"one process under {backend}: heads differ by {apart:.1e}")
    tests = SMOKE_TESTS if smoking() else ["-m", "gpu", "tests"]
    failed = subprocess.run([sys.executable, "-m", "pytest", "-q", *tests], cwd=ROOT, check=False).returncode
    print(f"gpu_tests_failed {failed}")
    print(f"gpu_process_group_difference {apart:.1e}")
    print(f"gpu_product_tflops {peak / 1e12:.1f}")
    print(f"gpu_pass_tokens_per_second {tokens / took['pass']:.0f}")
    print(f"gpu_pass_share_of_product {pass_flops(costs, tokens) / took['pass'] / peak:.3f}")
    print(f"gpu_full_prompts {peer / full:.1f}")
    print(f"gpu_epoch {peer / given.full / (took['epoch'] / split.questions):.1f}")
    return int(failed != 0)


if __name__ == "__main__":
    sys.exit(main())
