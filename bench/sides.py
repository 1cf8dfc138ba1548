"""The sides of the training benches: the same fit by Hugging Face's Trainer, by plain Lightning, and by us.

All train the top five routers with AdamW on the cross-entropy over the vocabulary at the answer position, on the same
batches in the same order: those of our data module, which are of like length. That spares the other sides padding which
their own shuffled order would cost them.
"""

import tempfile
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForCausalLM,
    DataCollatorForTokenClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from bench.mid_size import LEARNING_RATE, TUNED, Place, make_tuner, plain_trainer
from moe_tune.data.batching import Batch
from moe_tune.data.module import QuizDataModule
from moe_tune.data.text_batching import TextBatch
from moe_tune.heads.retuned import RetunedHead
from moe_tune.settings.quiet import quieten
from moe_tune.tuner.objective import TaskLoss


@dataclass(slots=True)
class Fit:
    """A timed fit.

    Args:
        total: Seconds of the whole side, model loading included.
        ready: Moment the fit began, with the model loaded and the prompts encoded.
        begins: Moment each step's batch was asked for.
        ends: Moment each optimiser step was done.
        losses: Loss of each step.
        letters: Index of the most probable letter of each question after the fit.
        tokens: Tokens of each step's longest prompt.
    """

    total: float = 0.0
    ready: float = 0.0
    begins: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    letters: dict[int, int] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Seconds from the beginning of the fit to its last optimiser step."""
        return self.ends[-1] - self.ready

    @property
    def steps(self) -> list[float]:
        """Seconds of each step."""
        return [end - begin for begin, end in zip(self.begins, self.ends, strict=True)]


class Clock(Callback):
    """Times a Lightning fit; what a module computes before its first batch counts, as Lightning calls us first."""

    def __init__(self) -> None:
        self.fit = Fit()

    def on_fit_start(self, trainer: LightningTrainer, pl_module: Any) -> None:
        """Note the beginning."""
        self.fit.ready = time.perf_counter()

    def on_train_batch_start(self, trainer: LightningTrainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Note the beginning of a step."""
        self.fit.begins.append(time.perf_counter())

    def on_train_batch_end(
        self, trainer: LightningTrainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the end of a step and its loss."""
        self.fit.ends.append(time.perf_counter())
        self.fit.losses.append(float(outputs["loss"]))
        ids_BS = batch.input_ids_BS if isinstance(batch, Batch | TextBatch) else batch["input_ids"]
        self.fit.tokens.append(ids_BS.shape[1])


class TrainerClock(TrainerCallback):
    """Times a fit of Hugging Face's Trainer at the same moments."""

    def __init__(self) -> None:
        self.fit = Fit()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Note the beginning."""
        self.fit.ready = time.perf_counter()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Note the beginning of a step."""
        self.fit.begins.append(time.perf_counter())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the end of a step."""
        self.fit.ends.append(time.perf_counter())


class ListeningTrainer(Trainer):
    """Hugging Face's Trainer, unchanged but for keeping each step's loss, which it only logs rounded."""

    def __init__(self, *arguments: Any, fit: Fit, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.fit = fit

    def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        """Keep the loss."""
        loss = super().compute_loss(model, inputs, *arguments, **options)
        self.fit.losses.append(loss.detach())
        self.fit.tokens.append(inputs["input_ids"].shape[1])
        return loss


class PlainModule(LightningModule):
    """The stock model as anybody would put it into Lightning."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: dict[str, torch.Tensor], batch_index: int) -> torch.Tensor:
        """Return the model's own loss."""
        return self.model(**batch).loss  # type: ignore[no-any-return]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW over the routers that train."""
        trained = [one for one in self.parameters() if one.requires_grad]
        return torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)


def huggingface_fit(place: Place, own_order: bool = False) -> Fit:
    """Return an epoch of Hugging Face's Trainer with the stock model.

    Args:
        place: The model and the questions.
        own_order: Whether it shuffles as it does by default, instead of getting our batches of like length.
    """
    start = time.perf_counter()
    quiz, model = place.quiz(), stock_model(place)
    fit = trained_by_huggingface(model, peer_rows(quiz), peer_collator(quiz), place.batch_size, own_order)
    fit.total = time.perf_counter() - start
    fit.letters = stock_letters(model, quiz)
    return fit


def trained_by_huggingface(
    model: Any,
    rows: list[Any],
    collator: Any,
    batch_size: int,
    own_order: bool = False,
    use_cpu: bool = True,
) -> Fit:
    """Train what is not frozen of a model for an epoch of Hugging Face's Trainer.

    Args:
        model: The model.
        rows: What the collator makes batches of; token ids, mask and labels of each row.
        collator: Makes a batch of rows.
        batch_size: Questions per step.
        own_order: Whether it shuffles as it does by default, instead of getting our batches of like length.
        use_cpu: Whether it stays on the CPU where there is a GPU.
    """
    clock = TrainerClock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=1,
            per_device_train_batch_size=batch_size,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            optim="adamw_torch",
            weight_decay=0.0,
            max_grad_norm=0.0,
            train_sampling_strategy="random" if own_order else "sequential",
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=use_cpu,
            dataloader_pin_memory=False,
        )
        trainer = ListeningTrainer(model, arguments, collator, train_dataset=rows, callbacks=[clock], fit=clock.fit)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    clock.fit.losses = [float(loss) for loss in clock.fit.losses]
    return clock.fit


def lightning_fit(place: Place) -> Fit:
    """Return an epoch of plain Lightning with the stock model."""
    start = time.perf_counter()
    quiz, model, clock = place.quiz(), stock_model(place), Clock()
    rows: Any = peer_rows(quiz)  # a list is all a DataLoader needs, but not what it declares
    loader: DataLoader[Any] = DataLoader(rows, place.batch_size, collate_fn=peer_collator(quiz))
    plain_trainer(place, clock, max_epochs=1).fit(PlainModule(model), loader)
    clock.fit.total = time.perf_counter() - start
    clock.fit.letters = stock_letters(model, quiz)
    return clock.fit


def our_fit(
    place: Place,
    use: str,
    scope: str = "answer",
    stream: bool = False,
    epochs: int = 1,
    task_loss: TaskLoss = "vocabulary",
) -> Fit:
    """Return our fit.

    Args:
        place: The model and the questions.
        use: ``auto``, ``always`` or ``never``: the answer path.
        scope: ``answer`` or ``all``.
        stream: Whether prompt states are computed on the fly instead of being kept.
        epochs: How many.
        task_loss: ``letters``, our default, or ``vocabulary``, the other sides' own.
    """
    start = time.perf_counter()
    quiz, clock = place.quiz(), Clock()
    tuner = make_tuner(place, RetunedHead(), use, scope, stream, task_loss=task_loss)
    plain_trainer(place, clock, max_epochs=epochs, limit_val_batches=0).fit(tuner, quiz)
    clock.fit.total = time.perf_counter() - start
    plain_trainer(place).validate(tuner, quiz, verbose=False)
    results = tuner.results["validation"]
    letters_Q = results.log_probs_QA.argmax(-1)
    clock.fit.letters = dict(zip(torch.cat(results.question_Q).tolist(), letters_Q.tolist(), strict=True))
    return clock.fit


def stock_model(place: Place) -> Any:
    """Return the stock model with everything frozen but the top routers."""
    quieten()
    return with_top_routers(AutoModelForCausalLM.from_pretrained(place.model, dtype=torch.float32))


def with_top_routers(model: Any) -> Any:
    """Return the model with everything frozen but the top routers."""
    model.requires_grad_(False)
    for layer in model.model.layers[-TUNED:]:
        layer.mlp.gate.weight.requires_grad_(True)
    return model


def peer_rows(quiz: QuizDataModule) -> list[dict[str, list[int]]]:
    """Return the training prompts in the order of our first epoch, each with its letter as the only label."""
    encoded = quiz.encoded("train")
    rows = []
    for index in (index for batch in quiz.train_dataloader().sampler for index in batch):
        prompt = encoded.prompts[index]
        letter = encoded.letter_ids[prompt.gold]
        ids = [*prompt.ids_S.tolist(), letter]
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [-100] * (len(ids) - 1) + [letter]})
    return rows


def peer_collator(quiz: QuizDataModule) -> DataCollatorForTokenClassification:
    """Return transformers' collator that pads inputs and labels to the longest prompt of a batch."""
    return DataCollatorForTokenClassification(quiz._tokenizer)


@torch.no_grad()
def stock_letters(model: Any, quiz: QuizDataModule) -> dict[int, int]:
    """Return the most probable letter of each training question."""
    model.eval()
    letters: dict[int, int] = {}
    for batch in quiz.loader("train"):
        hidden_BSD = model.model(batch.input_ids_BS, attention_mask=batch.attention_mask_BS).last_hidden_state
        answer_BD = hidden_BSD[torch.arange(len(hidden_BSD)), batch.answer_position_B]
        letters_B = model.lm_head(answer_BD)[:, quiz.letter_token_ids("train")].argmax(-1)
        letters |= dict(zip(batch.question_B.tolist(), letters_B.tolist(), strict=True))
    return letters
