"""RouterTuner: the LightningModule that answers questions with tuned routers."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from moe_tune.answer_path.build import PASS_TOKENS
from moe_tune.answer_path.engine import AnswerEngine
from moe_tune.answer_path.settings import AnswerPath
from moe_tune.base.errors import ConfigError, ModelError, NumericsError
from moe_tune.base.plugins import concrete_subclasses
from moe_tune.base.ranks import several_ranks, summed_over_ranks
from moe_tune.data.batching import Batch
from moe_tune.gates.gated_model import TunedRouters
from moe_tune.gates.session import RoutingDtype
from moe_tune.heads.base import RouterHead
from moe_tune.heads.identity import IdentityHead
from moe_tune.losses.base import CONTEXT_EXTRAS, AuxLoss, LossContext
from moe_tune.metrics.base import MetricShape, Outcome, RoutingMetric
from moe_tune.metrics.evidence import RoutingEvidence
from moe_tune.models.adapter import Adapter
from moe_tune.models.base_model import BaseModel
from moe_tune.models.experts_choice import measured_choice
from moe_tune.models.recomputed_layers import recomputed
from moe_tune.routing import Scope
from moe_tune.tuner.calibration import training_table
from moe_tune.tuner.joint_end import JointEnd
from moe_tune.tuner.split_results import SplitResults
from moe_tune.tuner.token_share import token_share
from moe_tune.tuner.train_table import TrainTable, ids_hash

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from moe_tune.data.module import QuizDataModule

FEW_TOKENS, SOME_TOKENS = 64, 1024
"""Tokens at which the experts implementation is measured, for answer tokens alone and for a batch of whole prompts."""


class RouterTuner(LightningModule):
    """Wraps a mixture-of-experts language model, puts router heads on chosen layers, and trains nothing else.

    Args:
        base: The base model and its tokenizer.
        head: The router head; one copy is bound to each chosen layer.
        losses: Auxiliary losses by a name of your choice, logged under it.
        layers: Layers that get a head: ``all``, ``last-N``, or a list of indices.
        scope: Tokens the heads act on: ``answer`` (the last prompt token) or ``all`` (every real token).
        task_loss: Cross-entropy over the answer ``letters``, or over the full ``vocabulary``; at the answer position.
        task_weight: Factor on the task loss, at least 0.
        routing_dtype: ``float32`` routes in float32, ties towards the lower index; ``native`` has the model's numerics.
        answer_path: When prompts are computed once and kept, so that a step costs one token per question.
        peft: Arguments of a ``peft.LoraConfig`` (``r``, ``target_modules``, ``target_parameters``, ...): an adapter
            trained beside the head, or instead of it with ``IdentityHead``; it acts on all tokens. ``null`` is none.

    Raises:
        ConfigError: A loss name is not a plain word, or there is nothing to optimise.
    """

    def __init__(
        self,
        base: BaseModel = BaseModel(),  # noqa: B008 - a dataclass default is what jsonargparse reads
        head: RouterHead = IdentityHead(),  # noqa: B008 - a prototype: copied before it gets any state
        losses: dict[str, AuxLoss] = {},  # noqa: B006 - never changed; an optional dict has unreadable messages
        layers: str | list[int] = "last-5",
        scope: Scope = "answer",
        task_loss: Literal["letters", "vocabulary"] = "letters",
        task_weight: float = 1.0,
        routing_dtype: RoutingDtype = "float32",
        answer_path: AnswerPath = AnswerPath(),  # noqa: B008 (shown as defaults by --help; never changed)
        peft: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        for name in losses:
            if not name.isidentifier():
                raise ConfigError(
                    f"expected a plain word as loss name but got {name!r} (model.losses). "
                    "Hint: --model.losses.balance LoadBalanceLoss."
                )
        self.base, self.losses, self.scope = base, losses, scope
        self.prototype = [head]  # in a list, so that the prototype is not a submodule
        self.layer_choice, self.task_loss, self.task_weight = layers, task_loss, task_weight
        self.routing_dtype, self.answer_path, self.peft = routing_dtype, answer_path, peft
        self.strict_loading = True
        self.make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None
        self.make_scheduler: Callable[[Optimizer], Any] | None = None
        self.results: dict[str, SplitResults] = {}
        self.calibrated = False
        self.told_constant = False
        self.joint_end: JointEnd | None = None
        self.accumulated = 0.0
        """Batches of the running optimiser step so far; one with fewer questions counts as a part."""
        self.table: TrainTable | None = None
        self.language_model: PreTrainedModel | None = None
        self.loss_needs: frozenset[str] = frozenset()
        self.engine: AnswerEngine
        self.pass_experts: str
        self._tokenizer: PreTrainedTokenizerBase | None = None

    # What the base model is

    @property
    def head(self) -> RouterHead:
        """The head prototype."""
        return self.prototype[0]

    @property
    def trains(self) -> bool:
        """Whether gradient descent has anything to change."""
        return self.head.traits.trainable or bool(self.peft)

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The base model's tokenizer, loaded on first use."""
        if self._tokenizer is None:
            self._tokenizer = self.base.load_tokenizer()
        return self._tokenizer

    @property
    def context_length(self) -> int:
        """The longest prompt the base model takes, in tokens."""
        return int(self.base.load_config().max_position_embeddings)

    @property
    def quiz(self) -> "QuizDataModule":
        """The data module of the running trainer."""
        quiz: QuizDataModule = self.trainer.datamodule
        return quiz

    def configure_model(self) -> None:
        """Load the base model and attach the heads, once."""
        if self.language_model is not None:
            return
        model, family = self.base.load()
        # Lightning moves the module only later, and what is measured below has to be measured where it will run.
        model.to(self.device if self._trainer is None else self.trainer.strategy.root_device)
        self.pass_experts = self.base.experts_implementation
        if self.base.experts_implementation == "auto":
            # Few tokens and many want different kernels: answer tokens, whole prompts, and the pass over many prompts.
            few = self.scope == "answer" and self.answer_path.use in ("auto", "always")
            chosen = measured_choice(model, family, FEW_TOKENS if few else SOME_TOKENS)
            self.pass_experts = measured_choice(model, family, PASS_TOKENS)
            if self._trainer is not None:  # else two processes might compute in two ways
                chosen, self.pass_experts = self.trainer.strategy.broadcast((chosen, self.pass_experts))
            self.base.experts_implementation = chosen  # type: ignore[assignment]
        model.set_experts_implementation(self.base.experts_implementation)
        self.language_model = model
        self.loss_needs = frozenset[str]().union(*(loss.needs for loss in self.losses.values())) - CONTEXT_EXTRAS
        metric_needs = frozenset[str]().union(*(kind.needs for kind in concrete_subclasses(RoutingMetric).values()))
        needs = self.loss_needs | metric_needs
        self.routers = TunedRouters(model, family, self.head, self.layer_choice, self.scope, self.routing_dtype, needs)
        self.routers.session.needs = metric_needs  # a training step records what the losses need instead
        if self.peft:
            if self.head.mixer() is not None and "experts" in str(self.peft):
                raise ConfigError(
                    f"expected no LoRA on experts whose outputs {type(self.head).__name__} mixes but got one "
                    "(model.peft). Hint: put it on attention or routers, or use a head without a mixing part."
                )
            self.routers.companion = Adapter(model, self.peft)
        self.hashes_at_load = self.routers.frozen_hashes()
        self.engine = AnswerEngine(self, self.answer_path)
        self.train(self.training)

    def train(self, mode: bool = True) -> "RouterTuner":
        """Put the heads into a mode; the base model stays in evaluation mode."""
        super().train(mode)
        if self.language_model is not None:
            self.language_model.eval()
            for head in self.routers.heads.values():
                head.train(mode)
            if self.routers.companion is not None:
                self.routers.companion.train(mode)
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return the heads' tensors only: a checkpoint never holds the base model."""
        return self.routers.state()

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> None:
        """Load the heads' tensors; every name must fit, whatever ``strict`` says."""
        self.routers.load_state(dict(state_dict), "checkpoint")
        self.calibrated = True

    # The way of a batch

    def forward(self, batch: Batch) -> Tensor:
        """Return the logits over the vocabulary at the answer position, (B, V), from the full prompts."""
        assert self.language_model is not None
        hidden_BSD = self.language_model.base_model(
            input_ids=batch.input_ids_BS, attention_mask=batch.attention_mask_BS, use_cache=False
        ).last_hidden_state
        place_B = torch.arange(len(hidden_BSD), device=hidden_BSD.device)
        logits_BV: Tensor = self.language_model.get_output_embeddings()(hidden_BSD[place_B, batch.answer_position_B])
        return logits_BV

    def answer(self, batch: Batch, split: str) -> tuple[Tensor, Tensor]:
        """Return letter log-probabilities (B, A) and the task loss of each question (B,).

        Where heads are compared, each question has a row for each of them.

        Args:
            batch: A batch of the data module.
            split: The split's name, which says how its letters are tokenised.
        """
        return self.judge(self.engine.logits(batch, split).float(), batch, split)

    def judge(self, logits_BV: Tensor, batch: Batch, split: str) -> tuple[Tensor, Tensor]:
        """Return what ``answer`` does, of logits that are there.

        Args:
            logits_BV: Logits over the vocabulary at the answer position, in float32.
            batch: The batch they belong to.
            split: Its split.

        Raises:
            NumericsError: A letter's logit is not finite.
        """
        letters = torch.tensor(self.quiz.letter_token_ids(split), device=logits_BV.device)
        letters_BA = logits_BV[:, letters]
        heads = len(logits_BV) // len(batch.gold_B)
        gold_B, count_B = (one.repeat_interleave(heads) for one in (batch.gold_B, batch.choice_count_B))
        beyond_BA = torch.arange(len(letters), device=logits_BV.device)[None] >= count_B[:, None]
        if not torch.isfinite(letters_BA).all():
            raise NumericsError(
                f"expected finite letter logits but some are not ({split} split, step {self.global_step}). "
                "Hint: lower the learning rate, or use a base dtype with more range."
            )
        log_probs_BA = functional.log_softmax(letters_BA.masked_fill(beyond_BA, -torch.inf), dim=-1)
        if self.task_loss == "letters":
            loss_B = functional.nll_loss(log_probs_BA, gold_B, reduction="none")
        else:
            loss_B = functional.cross_entropy(logits_BV, letters[gold_B], reduction="none")
        return log_probs_BA, loss_B

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the task loss plus the weighted auxiliary losses of a batch."""
        progress = self.set_progress()
        teacher_BV = self.teacher(batch)
        assert self.language_model is not None
        with self.recording(self.loss_needs), recomputed(self.language_model) if self.recomputes else nullcontext():
            logits_BV = self.engine.logits(batch, "train").float()
        log_probs_BA, loss_B = self.judge(logits_BV, batch, "train")
        trace, routers = self.routers.trace, self.routers
        context = LossContext(
            rule=routers.rule,
            layers=routers.layers,
            scope=self.scope,
            progress=progress,
            letter_log_probs_BA=log_probs_BA,
            gold_B=batch.gold_B,
            logits_BV=logits_BV,
            view=routers.views,
            teacher_logits_BV=teacher_BV,
            tables=None if self.table is None else self.table.layers,
        )
        size = together = len(loss_B)
        share = 1.0
        if several_ranks():  # what they have is averaged, and their parts of a batch may differ in size by one
            together = int(summed_over_ranks(torch.tensor(size, device=self.device)))
            share = size * self.trainer.world_size / together
        parts = {"task": (self.task_weight, loss_B.mean() * share)}
        for name, loss in self.losses.items():
            factor = share * token_share(self.trainer, batch_index) if loss.counts_tokens(self.scope) else share
            parts[name] = (loss.current_weight(progress), loss.compute(trace, context) * factor)
        self._refuse(parts)
        if not self.told_constant:
            self._tell_constant({name: value for name, (_, value) in parts.items() if name != "task"})
        total = torch.stack([weight * value for weight, value in parts.values()]).sum()
        correct = (log_probs_BA.argmax(-1) == batch.gold_B).float().mean() * share
        joint = several_ranks()
        self.log("train/loss", total, prog_bar=True, batch_size=size, sync_dist=joint)
        self.log("train/accuracy", correct, prog_bar=True, batch_size=size, sync_dist=joint)
        for name, (weight, value) in parts.items():
            if name != "task":
                self.log(f"train/loss_{name}", weight * value, batch_size=size, sync_dist=joint)
                self.log(f"train/loss_{name}_unscaled", value, batch_size=size, sync_dist=joint)
        return total if self.trainer.accumulate_grad_batches == 1 else total * self._counted(together)

    def _counted(self, questions: int) -> float:
        """Return the share of a full batch that a batch makes up, and add it to the running optimiser step."""
        share: float = questions / (self.quiz.batch_size * self.trainer.world_size)
        self.accumulated += share
        return share

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Make accumulated gradients those of the mean over the step's questions, as one large batch has them.

        Formula: ``g <- g B / sum_i (n_i / n)``; Lightning divides by B, the batches of a full step, also where the last
        step of an epoch has fewer, or a batch of ``n_i`` questions is not a full one of ``n``.

        Args:
            optimizer: About to take its step.
        """
        batches, self.accumulated = self.accumulated, 0.0
        wanted = self.trainer.accumulate_grad_batches
        if wanted == 1 or batches == wanted:
            return
        for parameter in self.routers.trainable().values():
            if parameter.grad is not None:
                parameter.grad.mul_(wanted / batches)

    @property
    def recomputes(self) -> bool:
        """Whether training runs whole prompts whose layers are checkpointed."""
        return self.base.gradient_checkpointing and self.engine.settle("train") in ("full prompts", "trunk cache")

    def teacher(self, batch: Batch) -> Tensor | None:
        """Return the pretrained router's logits for a training batch, (B, V), if a loss needs them."""
        if not any("teacher" in loss.needs for loss in self.losses.values()):
            return None
        with torch.no_grad(), self.routers.base_only(), self.recording(frozenset()):
            return self.engine.logits(batch, "train").float()

    @contextmanager
    def recording(self, needs: frozenset[str]) -> Iterator[None]:
        """Let forward passes record these extras of the routing and no others, for as long as the context lasts.

        Args:
            needs: ``hidden``, ``base_logits``; outside it is what the metrics need.
        """
        before, self.routers.session.needs = self.routers.session.needs, needs
        try:
            yield
        finally:
            self.routers.session.needs = before

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take the step, then let heads and losses move what is not trained by gradient."""
        super().optimizer_step(*args, **kwargs)
        with torch.no_grad():
            for head in self.routers.heads.values():
                head.after_step()
            for loss in self.losses.values():
                loss.after_step()

    def on_train_start(self) -> None:
        """Let the noise of heads differ from process to process, but not their end."""
        self.end_jointly()
        if several_ranks():
            torch.manual_seed(self.quiz.seed + self.global_rank)

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        """End together with the other processes where one was asked to."""
        if self.joint_end is not None:
            self.joint_end.check()

    def on_validation_batch_start(self, batch: Batch, batch_index: int, dataloader_idx: int = 0) -> None:
        """Do as before a training batch."""
        if self.joint_end is not None:
            self.joint_end.check()

    def on_test_batch_start(self, batch: Batch, batch_index: int, dataloader_idx: int = 0) -> None:
        """Do as before a training batch."""
        if self.joint_end is not None:
            self.joint_end.check()

    def on_predict_batch_start(self, batch: Batch, batch_index: int, dataloader_idx: int = 0) -> None:
        """Do as before a training batch."""
        if self.joint_end is not None:
            self.joint_end.check()

    def teardown(self, stage: str) -> None:
        """Forget the handler, which Lightning takes away with its own."""
        self.joint_end = None

    def end_jointly(self) -> None:
        """Let several processes end together from here on; Lightning has set its own handler just before."""
        if several_ranks() and self.joint_end is None:
            self.joint_end = JointEnd(self.trainer)

    def on_train_epoch_start(self) -> None:
        """Make a fresh table of the training split, from the second epoch on, for heads that ask for it."""
        if self.current_epoch and self.head.traits.refreshes:
            table = training_table(self, with_heads=True)
            for layer, head in self.routers.heads.items():
                head.recalibrate(table.layers[layer])

    def _refuse(self, parts: dict[str, tuple[float, Tensor]]) -> None:
        for name, (_, value) in parts.items():
            if not value.requires_grad:
                raise ConfigError(
                    f"expected every loss to reach a trainable parameter but {name!r} does not (model.losses). "
                    f"Hint: {type(self.head).__name__} at scope {self.scope} gives it no gradient path; drop the loss."
                )
            if not torch.isfinite(value):
                raise NumericsError(
                    f"expected finite losses but {name!r} is {value.item()} at step {self.global_step} "
                    f"(epoch {self.current_epoch}). Nothing was updated. "
                    "Hint: lower the learning rate or the loss weight."
                )

    def _tell_constant(self, values: dict[str, Tensor]) -> None:
        """Name, once, the losses that the head cannot move."""
        self.told_constant = True
        parameters = list(self.routers.trainable().values())
        for name, value in values.items():
            gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
            if not any(one is not None and one.any() for one in gradients):
                rank_zero_warn(
                    f"loss {name!r} has no gradient at the first step: it is constant on {type(self.head).__name__}, "
                    f"or already at its bound ({value.item():.4g})."
                )

    def set_progress(self) -> float:
        """Tell scheduled heads how much of training is done, and return it: 1 where there is nothing to train."""
        fitting = self.trainer.state.fn == "fit"
        progress = self.global_step / max(1.0, self.planned_steps) if fitting else 1.0
        for head in self.routers.heads.values():
            head.set_progress(progress)
        return progress

    @property
    def planned_steps(self) -> float:
        """Optimiser steps of the whole fit; infinite where only the clock ends it, and then nothing scheduled moves."""
        return float(self.trainer.estimated_stepping_batches)

    def configure_optimizers(self) -> Any:
        """Return the configured optimiser over the heads' parameters, and its scheduler, which moves every step."""
        parameters = list(self.routers.trainable().values())
        if not parameters:
            raise ConfigError(
                f"expected something to train but {type(self.head).__name__} has no parameters (model.head). "
                "Hint: RetunedHead trains the router weight; model.peft trains a LoRA."
            )
        try:
            optimizer = self.make_optimizer(parameters) if self.make_optimizer else torch.optim.AdamW(parameters)
            scheduler = self.make_scheduler(optimizer) if self.make_scheduler else None
        except (TypeError, ValueError) as fault:
            raise ConfigError(f"expected valid options but got: {fault} (optimizer, lr_scheduler).") from fault
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    # Evaluation

    def metric_shape(self, split: str) -> MetricShape:
        """Return the sizes of the metrics' states for a split of the quiz: the layers that run, its questions.

        Args:
            split: A split of the quiz.
        """
        rule, quiz = self.routers.rule, self.quiz
        first = min(self.routers.layers) if self.engine.settle(split) == "trunk cache" else 0
        layers, questions = tuple(one for one in self.routers.gates if one >= first), len(quiz.questions(split))
        return MetricShape(layers, rule.num_experts, rule.top_k, len(quiz.subjects), questions)

    def evaluate(self, batch: Batch, split: str) -> None:
        """Answer a batch and add it to the split's results."""
        if split not in self.results and split != "train" and self.table and self.head.traits.needs_calibration:
            self.table.refuse_overlap(self.quiz.questions(split), split)
        log_probs_BA, loss_B = self.answer(batch, split)
        if split not in self.results:
            self.results[split] = SplitResults(RoutingEvidence(self.metric_shape(split)).to(self.device))
        outcome = Outcome(log_probs_BA.argmax(-1) == batch.gold_B, batch.subject_B, batch.question_B)
        self.results[split].add(self.routers.trace, outcome, batch.question_B, log_probs_BA, loss_B)

    def log_evidence(self) -> None:
        """Log the routing numbers of every split evaluated in this epoch."""
        for split, results in self.results.items():
            for name, value in results.summary().items():
                # Double precision, so that equal counts of correct answers are equal accuracies.
                exact = torch.tensor(value, dtype=torch.float64)
                self.log(f"{split}/{name}", exact, prog_bar=name in ("accuracy", "loss", "entropy_topk"))

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Evaluate a validation batch."""
        self.evaluate(batch, "validation")

    def test_step(self, batch: Batch, batch_index: int, dataloader_idx: int = 0) -> None:
        """Evaluate a test batch."""
        self.evaluate(batch, self.quiz.test_names[dataloader_idx])

    def predict_step(self, batch: Batch, batch_index: int) -> dict[str, Tensor]:
        """Return each question's index and letter log-probabilities."""
        log_probs_BA, _ = self.answer(batch, self.quiz.predict_split)
        return {"question_B": batch.question_B.cpu(), "log_probs_BA": log_probs_BA.cpu()}

    def on_validation_epoch_start(self) -> None:
        """Forget the last epoch's results."""
        self.results = {}

    def on_test_epoch_start(self) -> None:
        """Forget earlier results."""
        self.results = {}

    def on_validation_epoch_end(self) -> None:
        """Log the routing numbers."""
        self.log_evidence()

    def on_test_epoch_end(self) -> None:
        """Log the routing numbers."""
        self.log_evidence()

    # Calibration

    def on_fit_start(self) -> None:
        """Compute what is kept of the prompts, and calibrate heads that need it."""
        self.keep_prompts(self.stage_splits)
        self.calibrate()

    def on_validation_start(self) -> None:
        """Keep the prompts, calibrate heads that need it, and move scheduled ones to where training stands."""
        self.get_ready()

    def on_test_start(self) -> None:
        """Do as before a validation."""
        self.get_ready()

    def on_predict_start(self) -> None:
        """Do as before a validation."""
        self.get_ready()

    @property
    def stage_splits(self) -> list[str]:
        """The splits the running stage reads; none without a trainer, or for a fit without steps."""
        if self._trainer is None or self.trainer.max_steps == 0:
            return []
        tests = self.quiz.test_names
        fitted = ["train", "validation"] if self.trainer.limit_val_batches else ["train"]
        splits = {"fit": fitted, "validate": ["validation"], "test": tests, "predict": [self.quiz.predict_split]}
        return splits.get(str(self.trainer.state.fn and self.trainer.state.fn.value), [])

    def keep_prompts(self, splits: list[str]) -> None:
        """Build or open the prompt caches of splits that take the answer path.

        Args:
            splits: Splits of the quiz.
        """
        with self.trainer.precision_plugin.forward_context():
            for split in splits:
                if self.engine.settle(split) not in ("full prompts", "streamed"):
                    self.engine.source(split)

    def get_ready(self) -> None:
        """Keep the prompts; calibrate heads that need it; move scheduled ones, at their end with nothing to train."""
        self.end_jointly()
        self.keep_prompts(self.stage_splits)
        self.calibrate()
        if self.trainer.state.fn == "fit" or not self.trains:
            self.set_progress()

    def calibrate(self) -> None:
        """Let heads and losses that need it read a table of the training split.

        Heads do not where a checkpoint has brought their state.
        """
        reading = self.trainer.state.fn == "fit" and any("table" in loss.needs for loss in self.losses.values())
        waiting = self.head.traits.needs_calibration and not self.calibrated
        if not waiting and (self.table is not None or not reading):
            return
        self.table = training_table(self)
        if waiting:
            for layer, head in self.routers.heads.items():
                head.calibrate(self.table.layers[layer])
        self.calibrated = True

    @property
    def fingerprint(self) -> str:
        """One hash over the hashes of all the base model's tensors, as they were when it was loaded."""
        return ids_hash(f"{name} {value}" for name, value in self.hashes_at_load.items())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note which base model the heads belong to, and what losses carry from step to step."""
        if isinstance(self.routers.companion, Adapter):
            checkpoint["adapter"] = self.routers.companion.description(self.base.path)
        checkpoint["losses"] = {name: loss.state for name, loss in self.losses.items() if loss.state}
        checkpoint["base"] = {"path": self.base.path, "revision": self.base.revision, "fingerprint": self.fingerprint}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse heads that were made for another base model.

        Raises:
            ModelError: The base model's tensors differ from those the checkpoint was made with.
        """
        for name, state in checkpoint.get("losses", {}).items():
            if name in self.losses:
                self.losses[name].state = state
        theirs = checkpoint.get("base", {})
        if theirs.get("fingerprint") != self.fingerprint:
            mine = f"{self.base.path} at {self.base.revision}, fingerprint {self.fingerprint}"
            raise ModelError(
                f"expected a checkpoint for {mine}, but got one for {theirs.get('path')} at {theirs.get('revision')}, "
                f"fingerprint {theirs.get('fingerprint')} (ckpt_path). Hint: set model.base to the checkpoint's."
            )

    def summary_line(self) -> str:
        """Return the start-up line: what is trained, where, and how."""
        if self.language_model is None:
            raise ModelError("expected a loaded model but it is not loaded yet. Hint: call configure_model().")
        if self._trainer is not None:
            with self.trainer.precision_plugin.forward_context():
                for split in self.stage_splits:
                    self.engine.settle(split)
        trained = sum(parameter.numel() for parameter in self.routers.trainable().values())
        own = {id(value) for head in self.routers.heads.values() for value in head.parameters()}
        own |= {id(value) for value in self.routers.trainable().values()}
        head = f"{type(self.head).__name__}{' and a LoRA' if self.peft else ''}"
        again = ""
        if self.base.gradient_checkpointing and "train" in self.engine.ways:
            why = "on" if self.recomputes else "has nothing to save on the answer path"
            again = f", gradient checkpointing {why}"
        total = sum(value.numel() for value in self.language_model.parameters() if id(value) not in own)
        return (
            f"trainable {trained:,} of {total:,} ({100 * trained / total:.4f} %), {len(self.routers.layers)} of "
            f"{len(self.routers.gates)} routers, head {head}, scope {self.scope}, "
            f"experts {self.base.experts_implementation}, routing {self.routing_dtype}, {self.engine.describe()}{again}"
        )
