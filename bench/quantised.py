"""What do experts in 8 or 4 bits change of a trained model's answers?

The nano model answers the nano quiz's validation questions in the layout it was trained in and in one it is bad at:
with its experts as they are, packed, and silent (0 bits: what they put out is zero), which shows how much hangs on them
at all. Run it as ``python bench/quantised.py``. Its figures are the nano model's alone: its experts have 64 and 32
inputs, two groups of 4 bits or one.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder that holds bench/

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bench.smoke import parsed
from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.data.protocol import load_protocol
from moe_tune.data.question import LETTERS, Question, number_questions
from moe_tune.models.base_model import BaseModel
from moe_tune.models.family import ModelFamily

LAYOUTS = ("nano_textbook", "nano_quiz")
COLUMNS = ("layout", "bits", "accuracy, %", "same letter, %", "KL, nats", "99 % of KL", "log p off", "other experts, %")


class Silent(BaseModel):
    """A base model whose experts say nothing."""

    def load(self) -> tuple[PreTrainedModel, ModelFamily]:
        """Return the model and its family."""
        model, family = super().load()
        for block in family.moe_layers(model).values():
            block.get_submodule(family.experts_path).get_parameter("down_proj").data.zero_()
        return model, family


BASES = {8: BaseModel("nano", quantise=8), 4: BaseModel("nano", quantise=4), 0: Silent("nano")}


@dataclass(frozen=True)
class Answers:
    """What a model says at the answer position.

    Attributes:
        logprobs_BV: Log-probabilities over the vocabulary.
        letters_B: The likeliest of the letters.
        experts_LBE: Which experts each layer has chosen.
    """

    logprobs_BV: Tensor
    letters_B: Tensor
    experts_LBE: Tensor


@torch.no_grad()
def answers(base: BaseModel, prompts: list[str], letters: Tensor) -> Answers:
    """Return what a model answers to prompts."""
    model, _ = base.load()
    tokens = base.load_tokenizer()(prompts, return_tensors="pt", padding=True)
    mask_BS = tokens["attention_mask"]
    row_B, last_B = torch.arange(len(mask_BS)), mask_BS.sum(1) - 1
    out = model(input_ids=tokens["input_ids"], attention_mask=mask_BS, output_router_logits=True)
    logits_BV = out.logits[row_B, last_B].float()
    chosen = []
    for router in out.router_logits:
        logits_BE = router.view(*mask_BS.shape, -1)[row_B, last_B]
        top_BK = logits_BE.topk(model.config.num_experts_per_tok).indices
        chosen.append(torch.zeros_like(logits_BE).scatter(-1, top_BK, 1.0).bool())
    return Answers(logits_BV.log_softmax(-1), logits_BV[:, letters].argmax(-1), torch.stack(chosen))


def questions(count: int) -> list[Question]:
    """Return questions of the nano quiz."""
    rows = [row.values for row in NanoQuiz(validation=count).rows("validation")]
    return number_questions((row["subject"], row["question"], tuple(row["choices"]), row["answer"]) for row in rows)


def percent(hit: Tensor) -> str:
    """Return a share in percent."""
    return f"{100 * float(hit.float().mean()):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=1024, help="questions of each layout")
    given = parsed(parser, questions=32)
    asked = questions(given.questions)
    right_B = torch.tensor([one.answer for one in asked])
    letters = torch.tensor(BASES[0].load_tokenizer().convert_tokens_to_ids(list(LETTERS[: len(asked[0].choices)])))
    figures = {}
    print("".join(f"{word:>18}" for word in COLUMNS))
    for layout in LAYOUTS:
        prompts = [load_protocol(layout).prompt(one) for one in asked]
        stock = answers(BaseModel("nano"), prompts, letters)
        print(f"{layout:>18}{'32':>18}{percent(stock.letters_B == right_B):>18}")
        for bits, base in BASES.items():
            other = answers(base, prompts, letters)
            off_BV = stock.logprobs_BV - other.logprobs_BV
            kl_B = (stock.logprobs_BV.exp() * off_BV).sum(-1)
            kept = float((stock.experts_LBE & other.experts_LBE).sum() / stock.experts_LBE.sum())
            words = [
                layout,
                str(bits),
                percent(other.letters_B == right_B),
                percent(other.letters_B == stock.letters_B),
            ]
            words += [f"{float(kl_B.mean()):.1e}", f"{float(kl_B.quantile(0.99)):.1e}"]
            words += [
                f"{float(off_BV.gather(1, letters[right_B][:, None]).abs().mean()):.5f}",
                f"{100 - 100 * kept:.2f}",
            ]
            print("".join(f"{word:>18}" for word in words))
            figures[f"quantised_{layout}_{bits}_kl"] = float(kl_B.mean())
    for name, value in figures.items():
        print(f"{name} {value:.1e}")


if __name__ == "__main__":
    main()
