"""How long is a training epoch on text: Hugging Face's Trainer, and ours from what entered the first trained layer?

The same blocks of real MMLU questions as running text, model, loss and optimiser on both sides; the top five of sixteen
routers train, at every token. What the eleven frozen layers below make of the blocks is kept on disk; the pass that
makes it is told by itself. The model has the mid-size width and a vocabulary of 8,192; beside it, the mid-size model of
the other benches, where the layers below are three of eight and the vocabulary 50,304. Every fit runs in a process of
its own, the sides in turn. Run it as ``python bench/text_epoch.py``.
"""

import argparse
import statistics
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder that holds bench/

import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, DataCollatorForTokenClassification, PreTrainedTokenizerFast

from bench.mid_size import (
    LEARNING_RATE,
    TUNED,
    Place,
    in_fresh_process,
    machine_line,
    mmlu_questions,
    plain_trainer,
    save_model,
    write_quiz,
    zero_shot_prompts,
)
from bench.sides import Clock, Fit, trained_by_huggingface, with_top_routers
from bench.smoke import parsed
from moe_tune.answer_path.settings import AnswerPath
from moe_tune.data.local_files import LocalFiles
from moe_tune.data.local_text import LocalText
from moe_tune.data.module import QuizDataModule
from moe_tune.data.training_text import TrainingText
from moe_tune.heads.retuned import RetunedHead
from moe_tune.models.base_model import BaseModel
from moe_tune.settings.quiet import quieten
from moe_tune.tuner.router_tuner import RouterTuner

EPOCHS = 3
"""Of ours, on kept states; the median counts."""


@dataclass(frozen=True, slots=True)
class Text:
    """Where both sides find a model and the text.

    Args:
        place: The folder with model and quiz.
        block: Tokens of a block.
    """

    place: Place
    block: int

    def quiz(self) -> QuizDataModule:
        """Return the text as a data module that knows the model's tokenizer."""
        text = TrainingText(LocalText(str(self.place.folder / "text.jsonl")), self.block)
        source = LocalFiles(str(self.place.folder / "quiz"))
        quiz = QuizDataModule(source, batch_size=self.place.batch_size, text=text)
        quiz.task = "next_token"
        quiz.prepare(BaseModel(str(self.place.model)).load_tokenizer(), 4096)
        return quiz


def our_epochs(text: Text) -> Fit:
    """Return our fit of some epochs, which keeps what enters the first trained layer."""
    place, clock = text.place, Clock()
    path = AnswerPath("auto", str(place.folder / "prompts"), 20.0)
    base = BaseModel(str(place.model))
    tuner = RouterTuner(base, RetunedHead(), layers=f"last-{TUNED}", scope="all", answer_path=path, task="next_token")
    tuner.make_optimizer = partial(torch.optim.AdamW, lr=LEARNING_RATE, weight_decay=0.0)
    plain_trainer(place, clock, max_epochs=EPOCHS, limit_val_batches=0).fit(tuner, text.quiz())
    return clock.fit


def their_epoch(text: Text) -> Fit:
    """Return an epoch of Hugging Face's Trainer on the batches of our first epoch, in their order."""
    quiz = text.quiz()
    quieten()
    model = with_top_routers(AutoModelForCausalLM.from_pretrained(text.place.model, dtype=torch.float32))
    blocks, batches = quiz.text_blocks("train"), []
    for batch in quiz.train_dataloader().sampler:
        rows = []
        for one in (blocks[index] for index in batch):
            ids = one.ids_S.long()
            labels = ids.where(one.scored_S, -100).tolist()
            rows.append({"input_ids": ids.tolist(), "attention_mask": [1] * len(ids), "labels": labels})
        batches.append(rows)
    collator = DataCollatorForTokenClassification(quiz._tokenizer)
    return trained_by_huggingface(model, batches, lambda one: collator(one[0]), 1)


def small_tokenizer(texts: list[str], words: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of byte pairs made from texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    known = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=words, special_tokens=["<end>", "<pad>"], initial_alphabet=known, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>")


def measured(layers: int, words: int, options: argparse.Namespace) -> float:
    """Print how both sides go on a model, and return how many of our epochs fit into one of theirs.

    Args:
        layers: Decoder layers of the model.
        words: Tokens of its vocabulary.
        options: Sizes.
    """
    pages = [one.question.stem + "\n" + "\n".join(one.question.choices) for one in zero_shot_prompts()]
    with tempfile.TemporaryDirectory() as name:
        text = Text(Place(Path(name), options.batch_size), options.block)
        save_model(text.place.model, layers, None if words == 50304 else small_tokenizer(pages, words), words)
        chosen = mmlu_questions(4, 400)
        write_quiz(text.place.folder / "quiz", train=chosen, validation=chosen)
        each = len(pages) // options.documents
        documents = ["\n\n".join(pages[start * each : (start + 1) * each]) for start in range(options.documents)]
        cut = options.block * options.characters
        lines = pd.DataFrame({"text": [one[:cut] for one in documents]})
        lines.to_json(text.place.folder / "text.jsonl", orient="records", lines=True)
        ours, theirs = in_fresh_process(our_epochs, text), in_fresh_process(their_epoch, text)
        blocks = text.quiz().text_blocks("train")
    size = len(ours.steps) // EPOCHS
    epochs = {
        side: statistics.median(sum(fit.steps[start : start + size]) for start in range(0, len(fit.steps), size))
        for side, fit in (("ours, kept", ours), ("Trainer", theirs))
    }
    print(f"{layers} layers, {words:,} words: {len(blocks)} blocks of {sum(one.length for one in blocks):,} tokens")
    for side, seconds in epochs.items():
        print(f"{side:12} epoch {seconds:7.2f} s, {seconds / size:.2f} s a step")
    first = ours.begins[0] - ours.ready
    print(f"pass that keeps {first:.2f} s; losses of the first step {ours.losses[0]:.6f} and {theirs.losses[0]:.6f}")
    return epochs["Trainer"] / epochs["ours, kept"]


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=50, help="documents; one in ten is held out")
    parser.add_argument("--block", type=int, default=128, help="tokens of a block")
    parser.add_argument("--characters", type=int, default=4, help="a document is cut at so many per token of a block")
    parser.add_argument("--batch_size", type=int, default=16, help="blocks per step, on both sides")
    options = parsed(parser, documents=24, block=16, batch_size=4)
    print(machine_line())
    mid_size = measured(8, 50304, options)
    ratio = measured(16, 8192, options)
    print(f"text_epoch_mid_size {mid_size:.2f}")
    print(f"text_epoch {ratio:.2f}")


if __name__ == "__main__":
    main()
