"""A teacher: another model whose next-token distribution a router learns from, never in memory beside the student."""

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from rich.filesize import decimal
from torch import Tensor
from transformers import PreTrainedModel

from moe_tune.answer_path.build import PASS_TOKENS, build_store
from moe_tune.answer_path.description import cache_folder
from moe_tune.answer_path.settings import AnswerPath
from moe_tune.answer_path.store import PromptStore, open_store
from moe_tune.answer_path.teacher_states import AskedRow, TeacherPass, rows_hash, teacher_plan
from moe_tune.base.errors import ConfigError, ModelError
from moe_tune.base.memory import let_go
from moe_tune.base.published import published
from moe_tune.base.ranks import Ranks
from moe_tune.data.module import QuizDataModule
from moe_tune.data.training_text import Task
from moe_tune.gates.gated_model import GatedModel
from moe_tune.models.base_model import BaseModel
from moe_tune.models.experts_choice import experts_run_by, measured_choice

Kind = Literal["quiz", "text"]
PROJECTION = "projection.sha256"
"""File beside the kept states: the hash of the output projection that they are for."""


class Teacher:
    """What another model makes of the training questions or the training text, as logits of the student's projection.

    Its hidden states after the final norm are computed once and kept on disk. Its output projection must be the
    student's, so that it need not be kept: pruning, merging and quantising experts leave it as it is.

    Args:
        store: The kept states.
        place: Row of the store by question id or block index.
        kind: Whether they are of questions or of text.
        projection: Hash of its output projection.
        path: Where it comes from, for messages.
    """

    def __init__(self, store: PromptStore, place: dict[Any, int], kind: Kind, projection: str, path: str) -> None:
        self.store, self.place, self.kind, self.projection, self.path = store, place, kind, projection, path

    def refuse_other(self, gated: GatedModel) -> None:
        """Refuse a student with another output projection.

        Raises:
            ModelError: It has one.
        """
        found = projection_hash(gated.model)
        if found != self.projection:
            raise ModelError(
                f"expected a student with the teacher's output projection, sha256 {self.projection[:16]}, but got "
                f"{found[:16]} (model.teacher {self.path}). Hint: the teacher is the model that the base was pruned, "
                "merged or quantised from, with the same dtype."
            )

    def logits(self, gated: GatedModel, rows_B: Sequence[Any]) -> Tensor:
        """Return its logits over the vocabulary, row after row, place after place, (M, V) in float32.

        Args:
            gated: The student, whose projection makes them.
            rows_B: Question ids, or indices of blocks.
        """
        asked_B = [self.place[one] for one in rows_B]
        counts_Q = self.store.plan.answers_Q
        assert counts_Q is not None
        hidden_BWD = self.store.batch(asked_B).answer_BXD[:, :, 0]
        held_BW = torch.arange(hidden_BWD.shape[1])[None] < counts_Q[asked_B][:, None]
        hidden_MD = hidden_BWD[held_BW].to(gated.device, gated.model.dtype)
        with torch.no_grad(), gated.session(needs=(), base_only=True):
            return gated.vocabulary_logits(hidden_MD).float()


def kept_teacher(base: BaseModel, quiz: QuizDataModule, task: Task, settings: AnswerPath, ranks: Ranks) -> Teacher:
    """Return a teacher whose states of the training split are kept; it is loaded only where they are not there yet.

    Args:
        base: The teacher.
        quiz: The data, prepared for the student's tokenizer.
        task: What the student is trained for; under ``both`` the losses that read a teacher are those of the quiz.
        settings: Where caches are kept, and how large one may be.
        ranks: The processes that work together.

    Raises:
        ConfigError: The states would be above the limit, or choices' texts are scored.
    """
    kind: Kind = "text" if task == "next_token" else "quiz"
    rows, names = _text_rows(quiz) if kind == "text" else _quiz_rows(quiz)
    config, dtype = base.load_config(), getattr(torch, base.dtype)
    plan = teacher_plan(rows, int(config.hidden_size), dtype)
    if plan.bytes > settings.limit_gb * 1e9:
        raise ConfigError(
            f"expected at most {settings.limit_gb:g} GB for what the teacher makes of {len(rows):,} rows but it takes "
            f"{decimal(plan.bytes)} (model.teacher). Hint: a higher --model.answer_path.limit_gb, or less data."
        )
    description = {
        "model": base.path,
        "revision": base.revision,
        "split": "training text" if kind == "text" else "train",
        "protocol": "text" if kind == "text" else quiz.protocol_name("train"),
        "few_shot": 0 if kind == "text" else quiz.few_shot,
        "kind": "teacher",
        "weights_sha256": base.content_hash(),
        "dtype": base.dtype,
        "rows_sha256": rows_hash(rows),
        "questions": len(rows),
    }
    folder = cache_folder(description, settings.folder)
    known = folder / PROJECTION
    store = open_store(folder)
    ready = store is not None and known.is_file()
    if not ranks.broadcast(ready):
        model, family = base.load()
        implementation = base.experts_implementation
        fastest = measured_choice(model, family, PASS_TOKENS) if implementation == "auto" else implementation
        with experts_run_by(model, str(ranks.broadcast(fastest))):
            store = build_store(folder, plan, description, TeacherPass(model, rows, quiz.pad_id), ranks)
        if not ranks.rank:
            with published(known) as draft:
                draft.write_text(projection_hash(model), encoding="ascii")
        ranks.barrier()
        del model, family
        let_go()  # the student comes into the same memory
    assert store is not None
    store.touch()
    rank_zero_info(f"teacher {base.path}: {len(rows):,} rows, {decimal(plan.bytes, precision=2)} kept in {folder}")
    return Teacher(store, {name: row for row, name in enumerate(names)}, kind, known.read_text("ascii"), base.path)


def projection_hash(model: PreTrainedModel) -> str:
    """Return sha256 of the weight that makes logits over the vocabulary."""
    weight: Any = model.get_output_embeddings().weight
    plain = weight.detach().cpu().contiguous().view(torch.uint8).numpy()
    return hashlib.sha256(str(weight.dtype).encode() + plain.data).hexdigest()


def _quiz_rows(quiz: QuizDataModule) -> tuple[list[AskedRow], list[Any]]:
    if quiz.is_cloze("train"):
        raise ConfigError(
            f"expected letters asked for at the answer position but got protocol {quiz.protocol.name} (model.teacher): "
            "a cloze question has no answer position. Hint: --data.protocol lm_eval."
        )
    prompts = quiz.encoded("train").prompts
    rows = [AskedRow(one.ids_S, torch.tensor([len(one.ids_S) - 1])) for one in prompts]
    return rows, [one.question.id for one in prompts]


def _text_rows(quiz: QuizDataModule) -> tuple[list[AskedRow], list[Any]]:
    blocks = quiz.text_blocks("train")
    rows = [AskedRow(one.ids_S[:-1], one.scored_S[1:].nonzero().squeeze(-1)) for one in blocks]
    return rows, list(range(len(blocks)))
