"""RouterTuner: the LightningModule that trains router heads."""

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from moe_tune.answer_path.settings import AnswerPath
from moe_tune.answer_path.text_way import TextWay
from moe_tune.answer_path.way import Way, refuse_demand
from moe_tune.base.errors import ConfigError, ModelError, NumericsError, require
from moe_tune.base.ranks import Ranks, several_ranks, summed_over_ranks
from moe_tune.data.batching import Batch
from moe_tune.data.joint_batching import JointBatch
from moe_tune.data.module import QuizDataModule
from moe_tune.data.text_batching import TextBatch
from moe_tune.data.training_text import Task
from moe_tune.gates.gated_model import GatedModel
from moe_tune.gates.session import RoutingDtype
from moe_tune.heads.base import RouterHead
from moe_tune.heads.identity import IdentityHead
from moe_tune.losses.base import AuxLoss, LossContext
from moe_tune.models.base_model import BaseModel
from moe_tune.models.packed_weight import PackedWeight
from moe_tune.models.recomputed_layers import recomputed
from moe_tune.routing import NeighbourRoutes, OracleRoutes, SampledRoutes, Scope
from moe_tune.routing.layer_choice import refuse_layers
from moe_tune.tuner.examiner import Examiner
from moe_tune.tuner.finite import blamed, not_finite, questions_told, told_where
from moe_tune.tuner.hooks import Calibration, CountedValidations, JointEnd, PreparedPrompts
from moe_tune.tuner.neighbours import EmbeddedQuestions
from moe_tune.tuner.objective import Objective, Parts, TaskLoss, judge, words_read
from moe_tune.tuner.opening import ModelSettings, OpenModel, open_model
from moe_tune.tuner.pace import paced
from moe_tune.tuner.split_results import SplitResults
from moe_tune.tuner.teacher import Teacher, kept_teacher
from moe_tune.tuner.text_step import predicted, refuse_of_text
from moe_tune.tuner.token_share import scored_share, text_share, token_share
from moe_tune.tuner.train_table import TrainTable


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
            trained beside the head, or instead of it with ``IdentityHead``; it acts on all tokens. Also ``experts``,
            those it trains (``by``, ``share``, ``seed``). ``null`` is none.
        teacher: A model that losses of distillation learn from in place of the pretrained router: the one that the
            base was pruned, merged or quantised from. Its last hidden states are computed before the base is loaded,
            and kept. ``null`` is none.
        task: What a fit trains: the ``quiz``, the ``next_token`` of ``data.text`` (the quiz is evaluated), or ``both``.

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
        task_loss: TaskLoss = "letters",
        task_weight: float = 1.0,
        routing_dtype: RoutingDtype = "float32",
        answer_path: AnswerPath = AnswerPath(),  # noqa: B008 (shown as defaults by --help; never changed)
        peft: dict[str, Any] | None = None,
        task: Task = "quiz",
        teacher: BaseModel | None = None,
    ) -> None:
        super().__init__()
        if task != "quiz":
            refuse_of_text(task, scope, losses)
            # Both passes of a step run before the gradient: what is computed again would meet the other's session.
            again, hint = task == "both" and base.gradient_checkpointing, "--model.base.gradient_checkpointing false."
            require(not again, "no gradient checkpointing under both", again, "model.task", hint)
        for name in losses:
            hint = "--model.losses.balance LoadBalanceLoss."
            require(name.isidentifier(), "a plain word as loss name", name, "model.losses", hint)
        hint = "1.0 is usual; 0 trains by the losses alone."
        require(0 <= task_weight < math.inf, "a factor of at least 0", task_weight, "model.task_weight", hint)
        something = task_weight > 0 or bool(losses) or not (head.traits.trainable or peft)
        require(something, "something to train by: a task_weight above 0, or losses", 0, "model.task_weight", hint)
        hint = "{r: 8, target_modules: [q_proj, v_proj]}; null is none."
        require(peft != {}, "arguments of peft.LoraConfig", peft, "model.peft", hint)
        refuse_layers(layers)
        self.asked = ModelSettings(base, head, losses, layers, scope, task_loss, routing_dtype, answer_path, peft)
        self.losses, self.scope, self.layer_choice = losses, scope, layers
        self.routing_dtype, self.answer_path, self.peft, self.task = routing_dtype, answer_path, peft, task
        self.objective = Objective(losses, task_loss, task_weight)
        hint = "--model.losses.distillation RouterDistillationLoss."
        read, what = teacher is None or self.objective.wants_teacher, "a loss that reads the teacher"
        require(read, what, sorted(losses) or "none", "model.teacher, model.losses", hint)
        self.taught_by = teacher
        self.teacher: Teacher | None = None
        self.strict_loading = True
        self.make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None
        self.make_scheduler: Callable[[Optimizer], Any] | None = None
        self.whole_prompts = False
        """Whether evaluations run every prompt in full, as somebody keeps the routing of all tokens."""
        self.results: dict[str, SplitResults] = {}
        """What the running evaluation has gathered of each split."""
        self.accumulated = 0.0
        """Batches of the running optimiser step so far; one with fewer questions counts as a part."""
        self.since_step: list[tuple[Batch | TextBatch | JointBatch, int]] = []
        """What the running optimiser step has computed, to say where its gradients went wrong."""
        self.table: TrainTable | None = None
        self.lora_experts: dict[int, list[int]] = {}
        """The experts that a LoRA on some of them trains, by layer."""
        self.oracle: OracleRoutes | None = None
        self.embedded: EmbeddedQuestions | None = None
        self.neighbours: NeighbourRoutes | None = None
        self.routes: SampledRoutes | None = None
        self.language_model: PreTrainedModel | None = None
        self.opened: OpenModel
        self._examiner: Examiner | None = None
        self._text_way: TextWay | None = None

    # What the base model is

    @property
    def base(self) -> BaseModel:
        """Where the base model comes from; before it is loaded, one that runs share may take its place."""
        return self.asked.base

    @base.setter
    def base(self, shared: BaseModel) -> None:
        self.asked = replace(self.asked, base=shared)

    @property
    def head(self) -> RouterHead:
        """The head prototype."""
        return self.asked.head

    @property
    def trains(self) -> bool:
        """Whether gradient descent has anything to change."""
        return self.head.traits.trainable or bool(self.peft)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's tokenizer, loaded on first use."""
        return self.base.load_tokenizer()

    @property
    def context_length(self) -> int:
        """The longest prompt the base model takes, in tokens."""
        return int(self.base.load_config().max_position_embeddings)

    @property
    def quiz(self) -> QuizDataModule:
        """The data module of the running trainer."""
        quiz: QuizDataModule = self.trainer.datamodule
        return quiz

    @property
    def ranks(self) -> Ranks:
        """The processes that work together."""
        if self._trainer is None:
            return Ranks()
        strategy = self.trainer.strategy
        return Ranks(self.trainer.global_rank, self.trainer.world_size, strategy.barrier, strategy.broadcast)

    @property
    def gated(self) -> GatedModel:
        """The loaded model with heads on it."""
        if self.language_model is None:
            raise ModelError("expected a loaded model but it is not loaded yet. Hint: call configure_model().")
        return self.opened.gated

    @property
    def examiner(self) -> Examiner:
        """Who asks the running trainer's questions."""
        if self._examiner is None or self._examiner.quiz is not self.quiz:
            numerics = self.trainer.precision_plugin.forward_context
            examiner = self.opened.examiner(self.quiz, self.ranks, numerics)
            self._examiner = examiner.on_full_prompts() if self.whole_prompts else examiner
        return self._examiner

    @property
    def text_way(self) -> TextWay:
        """How the blocks of the text that is trained on go through the model."""
        here = self.examiner.answering.circumstances
        if self._text_way is None or self._text_way.here is not here:
            self._text_way = TextWay(here)
        return self._text_way

    def setup(self, stage: str) -> None:
        self.quiz.task = self.task
        self.quiz.prepare(self.tokenizer, self.context_length)
        self.objective.require_loss_for(self.quiz)

    def configure_model(self) -> None:
        """Load the base model and attach the heads, once."""
        if self.language_model is not None:
            return
        # Lightning moves the module only later, and what is measured has to be measured where it will run.
        device = self.device if self._trainer is None else self.trainer.strategy.root_device
        if self.taught_by is not None and self._trainer is not None and self.trainer.state.fn == "fit":
            # Before the student, so that there are never two models in memory.
            self.teacher = kept_teacher(self.taught_by, self.quiz, self.task, self.answer_path, self.ranks)
        self.opened = open_model(self.asked, device, self.ranks)
        self.language_model = self.opened.gated.model
        # DDP would send every buffer to all processes before each pass; these never change, and each process read them.
        self._ddp_params_and_buffers_to_ignore = [
            f"{path}.{name}"
            for path, one in self.named_modules()
            if isinstance(one, PackedWeight)
            for name, _ in one.named_buffers()
        ]
        self.objective.require_probabilities(self.opened.gated)
        refuse_demand(self.opened.reach(), self.answer_path)
        if self.teacher is not None:
            self.teacher.refuse_other(self.gated)
        self.train(self.training)

    def configure_callbacks(self) -> list[Callback]:
        """Return the tuner's own hooks; Lightning asks again for the test after a fit, when they are there."""
        there = {type(one) for one in self.trainer.callbacks}
        return [kind() for kind in (JointEnd, CountedValidations, PreparedPrompts, Calibration) if kind not in there]

    def cpu(self) -> Self:
        """Stay on a trainer's device: Lightning comes here after every stage, which took longer than an evaluation."""
        return super().cpu() if self._trainer is None else self

    def train(self, mode: bool = True) -> "RouterTuner":
        """Put the heads into a mode; the base model stays in evaluation mode."""
        super().train(mode)
        if self.language_model is not None:
            self.gated.train(mode)
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return the heads' tensors only: a checkpoint never holds the base model."""
        return self.gated.state()

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> None:
        """Load the heads' tensors; every name must fit, whatever ``strict`` says."""
        self.gated.load_state(dict(state_dict), "checkpoint")

    # Training

    def training_step(self, batch: Batch | TextBatch | JointBatch, batch_index: int) -> Tensor:
        """Return the task loss plus the weighted auxiliary losses of a batch."""
        with told_where(self.gated, lambda: self._names(batch)):
            parts, size, together = self._losses(batch, batch_index)
        self.since_step.append((batch, batch_index))
        total = torch.stack([weight * value for weight, value in parts.values()]).sum()
        joint = several_ranks()
        self.log("train/loss", total, prog_bar=True, batch_size=size, sync_dist=joint)
        for name, (weight, value) in parts.items():
            if name != "task":
                self.log(f"train/loss_{name}", weight * value, batch_size=size, sync_dist=joint)
                self.log(f"train/loss_{name}_unscaled", value, batch_size=size, sync_dist=joint)
        if self.trainer.accumulate_grad_batches == 1:
            return total
        part: float = together / (self.quiz.batch_size * self.trainer.world_size)
        self.accumulated += part
        return total * part

    @property
    def _where(self) -> str:
        return f"step {self.global_step} (epoch {self.current_epoch})"

    def _names(self, batch: Batch | TextBatch | JointBatch) -> list[str]:
        """Return what the questions of a batch are called, or the blocks of its text."""
        quiz = batch.quiz if isinstance(batch, JointBatch) else batch
        if isinstance(quiz, TextBatch):
            return [f"block {one}" for one in quiz.document_B.tolist()]
        questions = self.quiz.questions("train")
        return [questions[one].id for one in quiz.question_B.tolist()]

    def _losses(self, batch: Batch | TextBatch | JointBatch, batch_index: int) -> tuple[Parts, int, int]:
        """Return the losses of a batch, how many rows it has, and those of all processes."""
        progress, where = self.set_progress(), self._where
        quiz = batch.quiz if isinstance(batch, JointBatch) else batch
        if isinstance(quiz, TextBatch):
            parts, size, together = self._text_parts(quiz, progress, batch_index, where)
        else:
            parts, size, together = self._quiz_parts(quiz, progress, batch_index, where)
        if isinstance(batch, JointBatch):
            # After the quiz's losses, which read the trace of its own pass.
            assert self.quiz.text is not None
            with self.gated.session(answer_BS=batch.text.answer_BS), self._memory():
                text = predicted(self.text_way, batch.text, "train", where).loss_M.mean()
            parts["text"] = (self.quiz.text.text.weight, text * text_share(self.trainer, batch_index))
        return parts, size, together

    def _memory(self) -> AbstractContextManager[None]:
        return recomputed(self.gated.model) if self.base.gradient_checkpointing else nullcontext()

    def _dealt(self, size: int) -> tuple[int, float]:
        """Return how many rows all processes have together, and what this one's count among them."""
        if not several_ranks():
            return size, 1.0
        # What they have is averaged, and their parts of a batch may differ in size by one.
        together = int(summed_over_ranks(torch.tensor(size, device=self.device)))
        return together, size * self.trainer.world_size / together

    def _quiz_parts(self, batch: Batch, progress: float, batch_index: int, where: str) -> tuple[Parts, int, int]:
        """Return the losses of a batch of questions, how many they are, and those of all processes."""
        gated, objective = self.gated, self.objective
        answering = self.examiner.answering
        teacher_BV = None
        if self.teacher is not None:
            prompts = self.quiz.encoded("train").prompts
            teacher_BV = self.teacher.logits(gated, [prompts[at].question.id for at in batch.question_B.tolist()])
        elif objective.wants_teacher:
            with torch.no_grad(), gated.session(needs=(), base_only=True):
                teacher_BV = answering.logits(batch, "train").float()
        known, task_loss = self.quiz.letter_token_ids("train"), self.asked.task_loss
        words, letters = words_read(gated, batch, known, task_loss, whole=objective.wants_teacher)
        with gated.session(needs=objective.needs), self._memory() if self.recomputes else nullcontext():
            logits_BV = answering.logits(batch, "train", words).float()
        log_probs_BA, loss_B, *_ = judge(logits_BV, batch, letters, task_loss, f"train split, {where}")
        size = len(batch.gold_B)
        together, share = self._dealt(size)
        tokens = token_share(self.trainer, batch_index) if objective.counts_tokens(self.scope) else 1.0
        answers = (log_probs_BA, batch.gold_B, logits_BV)
        extras = (teacher_BV, None if self.table is None else self.table.layers)
        oracle = None if self.oracle is None else self.oracle.of(batch.question_B)
        like = None if self.neighbours is None else self.neighbours.of(batch.question_B)
        routes = None if self.routes is None else self.routes.of(batch.question_B)
        context = LossContext(
            gated.rule, gated.layers, gated.scope, progress, *answers, gated.views, *extras, oracle, like, routes
        )
        correct = (log_probs_BA.argmax(-1) == batch.gold_B).float().mean() * share
        self.log("train/accuracy", correct, prog_bar=True, batch_size=size, sync_dist=several_ranks())
        return objective.parts(gated, context, loss_B.mean() * share, share, tokens, where), size, together

    def _text_parts(self, batch: TextBatch, progress: float, batch_index: int, where: str) -> tuple[Parts, int, int]:
        """Return the same of a batch of text, whose tokens count alike in an optimiser step, however it is cut."""
        way, gated, objective = self.text_way, self.gated, self.objective
        answer_BS = batch.answer_BS
        teacher_MV = None
        if self.teacher is not None:
            teacher_MV = self.teacher.logits(gated, batch.document_B.tolist())
        elif objective.wants_teacher:
            with torch.no_grad(), gated.session(needs=(), base_only=True, answer_BS=answer_BS):
                teacher_MV = predicted(way, batch, "train", where).logits_MV
        with gated.session(needs=objective.needs, answer_BS=answer_BS), self._memory():
            found = predicted(way, batch, "train", where)
        context = found.context(way, progress, teacher_MV)
        size = len(batch.input_ids_BS)
        together, share = self._dealt(size)
        loss, tokens = (
            found.loss_M.mean() * share * scored_share(self.trainer, batch_index),
            token_share(self.trainer, batch_index),
        )
        return objective.parts(gated, context, loss, share, tokens, where), size, together

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Refuse gradients that are not finite; make accumulated ones those of the mean over the step's questions.

        Formula: ``g <- g B / sum_i (n_i / n)``; Lightning divides by B, the batches of a full step, also where the last
        step of an epoch has fewer, or a batch of ``n_i`` questions is not a full one of ``n``.
        """
        self._refuse_not_finite_gradients()
        batches, self.accumulated = self.accumulated, 0.0
        wanted = self.trainer.accumulate_grad_batches
        if wanted == 1 or batches == wanted:
            return
        for parameter in self.gated.trainable().values():
            if parameter.grad is not None:
                parameter.grad.mul_(wanted / batches)

    def _refuse_not_finite_gradients(self) -> None:
        since, self.since_step = self.since_step, []
        trained = self.gated.trainable()
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            return  # float16 leaves out such a step and scales the next one less
        if names := not_finite({name: parameter.grad for name, parameter in trained.items()}):
            terms: set[str] = set()
            with torch.enable_grad():
                for batch, index in since:
                    terms |= {*blamed(self._losses(batch, index)[0], list(trained.values()))}
            which = f"of loss {', '.join(sorted(terms))}" if terms else "of the step, of no loss alone"
            asked = questions_told([name for batch, _ in since for name in self._names(batch)])
            raise NumericsError(
                f"expected finite gradients but those {which} are not at {self._where}, for {', '.join(names[:4])}. "
                f"Nothing was updated. {asked} Hint: lower the learning rate or the loss weight."
            )

    @property
    def recomputes(self) -> bool:
        """Whether training runs whole prompts whose layers are checkpointed."""
        return self.base.gradient_checkpointing and self.examiner.settle("train") in (Way.FULL_PROMPTS, Way.TRUNK)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take the step, then let heads and losses move what is not trained by gradient."""
        super().optimizer_step(*args, **kwargs)
        if names := not_finite(dict(self.gated.trainable())):
            raise NumericsError(
                f"expected finite weights but the update at {self._where} made {', '.join(names[:4])} overflow. "
                "No checkpoint has them. Hint: lower the learning rate."
            )
        with torch.no_grad():
            for head in self.gated.heads.values():
                head.after_step()
            self.objective.after_step()

    def on_train_start(self) -> None:
        if several_ranks():  # the noise of heads differs from process to process
            torch.manual_seed(self.quiz.seed + self.global_rank)

    def set_progress(self) -> float:
        """Tell scheduled heads how much of training is done, and return it: 1 where there is nothing to train."""
        fitting = self.trainer.state.fn == "fit"
        # Where only the clock ends a fit its steps are infinitely many, and nothing scheduled moves.
        progress = self.global_step / max(1.0, float(self.trainer.estimated_stepping_batches)) if fitting else 1.0
        for head in self.gated.heads.values():
            head.set_progress(progress)
        return progress

    def configure_optimizers(self) -> Any:
        """Return the configured optimiser over the heads' parameters, and its scheduler with its pace."""
        parameters = list(self.gated.trainable().values())
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
        pace = paced(scheduler, lambda: float(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": pace}

    # Evaluation, whose batches Lightning pushes

    def _evaluate(self, batch: Batch, split: str) -> None:
        if split not in self.results:
            self.results[split] = self.examiner.results(split)
        self.examiner.answer_batch(batch, split, self.results[split])

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        self._evaluate(batch, "validation")

    def test_step(self, batch: Batch, batch_index: int, dataloader_idx: int = 0) -> None:
        self._evaluate(batch, self.quiz.test_names[dataloader_idx])

    def predict_step(self, batch: Batch, batch_index: int) -> dict[str, Tensor]:
        """Return each question's index, and by name what is kept of its answer."""
        judged = self.examiner.answer_batch(batch, self.quiz.predict_split)
        return {"question_B": batch.question_B.cpu(), **judged.rows()}

    def _forget(self) -> None:
        self.results = {}

    on_validation_epoch_start = on_test_epoch_start = _forget

    def _log_evidence(self) -> None:
        for split, results in self.results.items():
            for name, value in results.summary().items():
                # Double precision, so that equal counts of correct answers are equal accuracies.
                exact = torch.tensor(value, dtype=torch.float64)
                self.log(f"{split}/{name}", exact, prog_bar=name in ("accuracy", "loss", "entropy_topk"))

    on_validation_epoch_end = on_test_epoch_end = _log_evidence

    @property
    def stage_splits(self) -> list[str]:
        """The splits the running stage reads; none without a trainer, or for a fit without steps."""
        if self._trainer is None or self.trainer.max_steps == 0:
            return []
        tests = self.quiz.test_names
        fitted = ["train"] * (self.task != "next_token") + ["validation"] * bool(self.trainer.limit_val_batches)
        splits = {"fit": fitted, "validate": ["validation"], "test": tests, "predict": [self.quiz.predict_split]}
        return splits.get(str(self.trainer.state.fn and self.trainer.state.fn.value), [])

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note which base model the heads belong to, and what losses carry from step to step."""
        gated = self.gated
        if gated.adapter is not None:
            checkpoint["adapter"] = gated.adapter.description(self.base.path)
        checkpoint["losses"] = {name: loss.state for name, loss in self.losses.items() if loss.state}
        if gated.calibrated_on:
            checkpoint["calibrated_on"] = sorted(gated.calibrated_on)
        checkpoint["base"] = {"path": self.base.path, "revision": self.base.revision, "fingerprint": gated.fingerprint}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse heads that were made for another base model; give losses what they carry."""
        self.opened.accept(checkpoint)
        for name, state in checkpoint.get("losses", {}).items():
            if name in self.losses:
                self.losses[name].state = state
