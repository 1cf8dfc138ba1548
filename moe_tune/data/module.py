"""The data module: from a question source to the batches of every stage."""

import os
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch.utils.data import DataLoader, Dataset

from moe_tune.base.errors import ConfigError, did_you_mean, require
from moe_tune.data.batching import Batch, BucketBatchSampler, PromptDataset
from moe_tune.data.encoding import EncodedSplit, PromptEncoder
from moe_tune.data.joint_batching import JointBatchSampler, JointDataset
from moe_tune.data.overlap import not_out_of_distribution
from moe_tune.data.patient_loader import PatientLoader, begin_worker
from moe_tune.data.protocol import AUXILIARY, PromptProtocol, load_protocol
from moe_tune.data.question import Question
from moe_tune.data.short_answer_source import ShortAnswerSource
from moe_tune.data.short_answers import ShortAnswers
from moe_tune.data.short_batching import EncodedShort, ShortBatch, ShortDataset
from moe_tune.data.source import QuestionSource, Source
from moe_tune.data.splits import Splits
from moe_tune.data.text_batching import EncodedDocument, TextBatch, TextDataset
from moe_tune.data.text_blocks import TextBlocks
from moe_tune.data.text_source import TextSource
from moe_tune.data.texts import Texts
from moe_tune.data.training_text import Task, TrainingText
from moe_tune.data.validation import drop_list_hash


class QuizDataModule(LightningDataModule):
    """A quiz: its questions, split and checked, as prompts in batches.

    Questions are read and encoded when a stage first needs them.

    Args:
        source: Where the questions come from.
        protocol: How a question becomes a prompt: a shipped name such as ``lm_eval``, or a YAML file.
        few_shot: Worked examples before each question, from 0; they come from the ``dev`` split of its subject.
        test_protocols: Further protocols the test split is evaluated under, each reported on its own.
        batch_size: Questions per training batch and process.
        eval_batch_size: Questions per evaluation batch and process; ``null`` takes ``batch_size``.
        max_length: Most tokens a prompt may have; ``null`` takes the model's context. Longer prompts lose examples.
        train_split: ``train`` takes the source's own; ``validation`` carves validation 80/20 into train and validation.
        limit_train: At most this many training questions, sampled by subject; ``null`` takes all.
        limit_validation: The same for validation.
        limit_test: The same for test, and for the documents of each text and the questions of short answers.
        on_bad_row: ``error`` stops at rows that are no questions or do not fit; ``drop`` leaves them out, recorded.
        official: Published sizes must match and no training question may occur in test, or the run stops.
        seed: Seed of the training order, from 0; of a command it is ``seed_everything``.
        num_workers: Processes that collate batches, from 0.
        test_sources: Further sources by a name of your choice: the test split of each is evaluated as ``test_<name>``
            under ``protocol``, and none of its test questions is trained on. Of text it is the loss of the next token,
            of short answers the exact match of what is generated.
        text: Text whose next tokens are trained to be predicted, where ``model.task`` says so; ``null`` is none.

    Raises:
        ConfigError: A number is out of range, or a name of a source is no plain word or a protocol's.
    """

    def __init__(
        self,
        source: QuestionSource,
        protocol: str = "lm_eval",
        few_shot: int = 0,
        test_protocols: list[str] | None = None,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        max_length: int | None = None,
        train_split: str = "train",
        limit_train: int | None = None,
        limit_validation: int | None = None,
        limit_test: int | None = None,
        on_bad_row: Literal["error", "drop"] = "error",
        official: bool = False,
        seed: int = 0,
        num_workers: int = 0,
        test_sources: dict[str, Source] = {},  # noqa: B006 - never changed; an optional dict has unreadable messages
        text: TrainingText | None = None,
    ) -> None:
        super().__init__()
        given = {"train": limit_train, "validation": limit_validation, "test": limit_test}
        limits = {key: value for key, value in given.items() if value is not None}
        tests = {
            f"test_{name}": Splits(one, "train", on_bad_row, official, limits)
            for name, one in test_sources.items()
            if isinstance(one, QuestionSource)
        }
        self.test_sources = tests
        short = {f"test_{name}": one for name, one in test_sources.items() if isinstance(one, ShortAnswerSource)}
        origins = [Splits(one.drawn_from, "train", on_bad_row) for one in short.values() if one.drawn_from is not None]
        self.splits = Splits(source, train_split, on_bad_row, official, limits, [*tests.values(), *origins])
        self.texts = {
            f"test_{name}": Texts(one, on_bad_row, limit_test)
            for name, one in test_sources.items()
            if isinstance(one, TextSource)
        }
        """The texts whose next tokens are predicted after the test questions, by ``test_<name>``."""
        self.short_answers = {name: ShortAnswers(one, on_bad_row, limit_test) for name, one in short.items()}
        """The questions that are answered in words after them, by ``test_<name>``."""
        self.text = None if text is None else TextBlocks(text, on_bad_row, self.texts.values())
        """The text that is trained on, if there is one."""
        self.task: Task = "quiz"
        """What a fit trains on: the quiz, text, or both."""
        if few_shot < 0:
            raise ConfigError(f"expected 0 or more but got {few_shot} (data.few_shot). Hint: 0 and 5 are usual.")
        for key, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if value is not None and value < 1:
                raise ConfigError(f"expected at least 1 question but got {value} (data.{key}). Hint: 32 is usual.")
        most = 16 * (os.cpu_count() or 1)
        hint = "0 collates in the training process, which is usual."
        require(0 <= num_workers <= most, f"processes from 0 to {most}", num_workers, "data.num_workers", hint)
        require(0 <= seed < 2**63, "a seed from 0", seed, "data.seed", "the default is 0.")
        hint = "null takes the model's context."
        require(max_length is None or max_length >= 1, "at least 1 token", max_length, "data.max_length", hint)
        asked = test_protocols or []
        twice = sorted({one for one in asked if asked.count(one) > 1})
        require(not twice, "each protocol once", twice, "data.test_protocols", "leave one out.")
        self.protocol = load_protocol(protocol)
        self.test_protocols = {f"test_{one.name}": one for one in map(load_protocol, test_protocols or [])}
        for name in test_sources:
            if not name.isidentifier() or f"test_{name}" in self.test_protocols:
                raise ConfigError(
                    f"expected a plain word, and none of data.test_protocols, but got {name!r} (data.test_sources). "
                    "Hint: --data.test_sources.mine LocalFiles --data.test_sources.mine.path FOLDER."
                )
        self.few_shot = few_shot
        self.batch_size = batch_size
        self.eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        self.max_length = max_length
        self.on_bad_row: Literal["error", "drop"] = on_bad_row
        self.seed = seed
        self.num_workers = num_workers
        self.predict_split = "test"
        """The split that a prediction reads."""
        self._tokenizer: Any = None
        self._context_length = 0
        self._encoded: dict[str, EncodedSplit] = {}
        self._told: set[str] = set()

    @property
    def test_names(self) -> list[str]:
        """The names of the test loaders: ``test``, then ``test_<name>`` for each further protocol and source."""
        return ["test", *self.test_protocols, *self.test_sources]

    @property
    def beside(self) -> dict[str, Texts | ShortAnswers]:
        """What is tested beside questions with choices: texts and short answers."""
        return {**self.texts, **self.short_answers}

    @property
    def subjects(self) -> list[str]:
        """The subjects ``subject_B`` points into: sorted, further sources' behind them, and ``auxiliary`` last."""
        own = self.splits.subjects
        named = [one for one in own if one != AUXILIARY]
        found = {one.subject for splits in self.test_sources.values() for one in splits.questions("test")}
        return [*named, *sorted(found - {*named, AUXILIARY}), *([AUXILIARY] if AUXILIARY in {*own, *found} else [])]

    @property
    def manifest(self) -> dict[str, Any]:
        """What was read and encoded so far, as plain values for JSON."""
        prompts = {
            name: {
                "protocol": self._protocol(name).name,
                "few_shot": self.few_shot,
                "n": len(encoded.prompts),
                "longest": max(one.length for one in encoded.prompts),
                "tokens": sum(one.length for one in encoded.prompts),
                "letter_ids": encoded.letter_ids,
                **({"chat_template_sha256": encoded.template} if encoded.template else {}),
                "shortened": encoded.shortened,
                "dropped": [{"where": one.where, "reason": one.reason} for one in encoded.dropped],
                "dropped_sha256": drop_list_hash(encoded.dropped),
            }
            for name, encoded in self._encoded.items()
        }
        further = {name: one.manifest() for name, one in (self.test_sources | self.beside).items()}
        text = None if self.text is None else self.text.manifest()
        more = {"test_sources": further, "not_out_of_distribution": self.not_out_of_distribution, "text": text}
        return {**self.splits.manifest(), "prompts": prompts} | {key: value for key, value in more.items() if value}

    @property
    def not_out_of_distribution(self) -> dict[str, str]:
        """Which further sources come from the same collections as the training questions read, and what those are."""
        origins = {name: splits.source.same_origin_as for name, splits in self.test_sources.items()}
        return not_out_of_distribution(self.splits.trained, origins)

    def prepare(self, tokenizer: Any, context_length: int) -> None:
        """Tell the module which model the prompts are for.

        Raises:
            ConfigError: ``max_length`` is more than that.
        """
        if self.max_length is not None and not 0 < self.max_length <= context_length:
            raise ConfigError(
                f"expected 1 to {context_length} tokens but got {self.max_length} (data.max_length). "
                "Hint: leave it out to take the model's context."
            )
        if tokenizer is not self._tokenizer:
            self._encoded.clear()
        self._tokenizer = tokenizer
        self._context_length = context_length

    def setup(self, stage: str) -> None:
        """Read and encode the splits of a stage for the trainer's model, before anything of the run is written."""
        assert self.trainer is not None
        tuner: Any = self.trainer.lightning_module
        self.prepare(tuner.tokenizer, tuner.context_length)
        if stage == "fit":
            self.split_alone()
            if self.task != "quiz":
                self.text_blocks("train")
        fitted = ["validation"] if self.task == "next_token" else ["train", "validation"]
        needed = {"fit": fitted, "validate": ["validation"], "test": self.test_names}
        for name in needed.get(stage, [self.predict_split]):
            self.encoded(name)
        for items in self.beside.values():
            if stage == "test":
                items.encoded(self._tokenizer, self._context_length)
            elif stage == "fit":
                _ = items.items  # a fault in them shall not be told after the fit
        self._tell()

    def encoded(self, name: str) -> EncodedSplit:
        """Return the prompts of a split, encoding them on first use."""
        if name not in self._encoded:
            if self._tokenizer is None:
                raise ConfigError(
                    f"expected a model before the prompts of {name!r} are asked for. Hint: call prepare first."
                )
            try:
                questions = self._read(name)
            finally:  # what was recognised explains what went wrong
                self._tell()
            self._encoded[name] = self.encoder(name).encode(questions, self.on_bad_row)
            if dropped := len(self._encoded[name].dropped):
                rank_zero_info(f"{name}: {dropped} of {len(questions)} prompts dropped, longer than the context")
        return self._encoded[name]

    def _tell(self) -> None:
        lines = [line for splits in (self.splits, *self.test_sources.values()) for line in splits.notes]
        read = self.beside if self.text is None else {**self.beside, "text": self.text}
        lines += [f"{name}: {line}" for name, items in read.items() for line in items.notes]
        for line in lines:
            if line not in self._told:
                rank_zero_info(line)
            self._told.add(line)

    def split_alone(self) -> None:
        """Split test questions that have no others beside them, as a fit does: for what reads the heads it trained."""
        self.splits.split_alone()
        if self.splits.alone:
            self._encoded = {name: one for name, one in self._encoded.items() if self._split(name) != "test"}

    def encoder(self, name: str) -> PromptEncoder:
        """Return what turns questions of a split into token ids."""
        examples: dict[str, list[Question]] = {}
        for one in self._home(name).questions("dev") if self.few_shot else ():
            examples.setdefault(one.subject, []).append(one)
        length = self.max_length or self._context_length
        return PromptEncoder(self._tokenizer, self._protocol(name), length, self.few_shot, examples)

    def loader(self, name: str) -> DataLoader[Batch]:
        """Return the batches of any split for an evaluation, unshuffled."""
        return self._loader(name, self.eval_batch_size)

    def documents(self, name: str) -> list[EncodedDocument]:
        """Return the documents of a text as tokens, encoding them on first use; ``document_B`` points into them."""
        self._require_known(name, "text", self.texts)
        return self.texts[name].encoded(self._tokenizer, self._context_length)

    def text_blocks(self, split: Literal["train", "validation"]) -> list[EncodedDocument]:
        """Return the blocks of the text that is trained on; ``document_B`` points into them.

        Raises:
            ConfigError: There is none.
        """
        if self.text is None:
            raise ConfigError(
                "expected text to train on but got none (data.text). "
                "Hint: --data.text.source LocalText --data.text.source.path FILE, or --config task/next_token."
            )
        if self._tokenizer is None:
            raise ConfigError("expected a model before text is asked for. Hint: call prepare first.")
        return self.text.blocks(split, self._tokenizer, self._context_length)

    def block_loader(self, split: Literal["train", "validation"]) -> DataLoader[TextBatch]:
        """Return the batches of the text that is trained on, of like length, for an evaluation."""
        blocks = self.text_blocks(split)
        sampler = self._sampler([one.length for one in blocks], self.eval_batch_size)
        return DataLoader(TextDataset(blocks, self.pad_id), sampler=sampler, batch_size=None)

    def short_questions(self, name: str) -> list[EncodedShort]:
        """Return the prompts of short answers, encoding them on first use; ``question_B`` points into them."""
        self._require_known(name, "source of short answers", self.short_answers)
        return self.short_answers[name].encoded(self._tokenizer, self._context_length)

    def _require_known(self, name: str, what: str, known: Mapping[str, Any]) -> None:
        if self._tokenizer is None:
            raise ConfigError(f"expected a model before {name!r} is asked for. Hint: call prepare first.")
        if name not in known:
            raise ConfigError(f"expected a {what} but got {name!r}. Hint: {did_you_mean(name, known)}")

    def text_loader(self, name: str) -> DataLoader[TextBatch]:
        """Return the batches of a text, of like length, unshuffled."""
        documents = self.documents(name)
        sampler = self._sampler([one.length for one in documents], self.eval_batch_size)
        return DataLoader(TextDataset(documents, self.pad_id), sampler=sampler, batch_size=None)

    def short_loader(self, name: str) -> DataLoader[ShortBatch]:
        """Return the batches of a source of short answers, of like length, unshuffled."""
        questions = self.short_questions(name)
        sampler = self._sampler([one.length for one in questions], self.eval_batch_size)
        return DataLoader(ShortDataset(questions, self.pad_id), sampler=sampler, batch_size=None)

    @property
    def pad_id(self) -> int:
        """The token that fills shorter prompts; masked, so any valid token does."""
        pad_id = self._tokenizer.pad_token_id
        return pad_id if pad_id is not None else 0

    def protocol_name(self, name: str) -> str:
        """Return the name of the protocol a split is asked under."""
        return self._protocol(name).name

    def is_cloze(self, name: str) -> bool:
        """Return whether the choices' texts of a split are scored, not letters."""
        return self._protocol(name).kind == "cloze"

    def limit(self, name: str, questions: int) -> None:
        """Go on with a sample of a split's questions, by subject; recorded in the manifest like a limit asked for."""
        self.splits.limit(name, questions)
        self._encoded.pop(name, None)

    def questions(self, name: str) -> list[Question]:
        """Return the questions that ``question_B`` points into."""
        if self._tokenizer is None:
            return self._read(name)
        return [one.question for one in self.encoded(name).prompts]

    def letter_token_ids(self, name: str) -> list[int]:
        """Return the token of each answer letter, up to the split's largest number of choices."""
        return self.encoded(name).letter_ids

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the training batches, shuffled but to overfit them, from where an interrupted epoch stopped."""
        # Lightning takes every loader without a state of its own for one that replays; the sampler does not.
        warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
        shuffle = self.trainer is None or not self.trainer.overfit_batches > 0
        loader = self._loader("train", self.batch_size, shuffle) if self.task == "quiz" else self._with_text(shuffle)
        if self.trainer is not None:
            loader.sampler.load_state_dict(self._position())  # type: ignore[attr-defined]
        return loader

    def _with_text(self, shuffle: bool) -> DataLoader[Any]:
        blocks, size = self.text_blocks("train"), self.batch_size
        texts = TextDataset(blocks, self.pad_id)
        scored = [one.scored for one in blocks]
        sampler = self._sampler([one.length for one in blocks], size, shuffle, scored)
        if self.task == "next_token":
            return self._loaded(texts, sampler)
        prompts = self.encoded("train").prompts
        dataset = JointDataset(PromptDataset(prompts, self.subjects, self.pad_id), texts)
        joint = JointBatchSampler(sampler, [one.length for one in prompts], size, shuffle, self.seed, *self._processes)
        return self._loaded(dataset, joint)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self.loader("validation")

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        """Return the test batches under each protocol, in the order of ``test_names``."""
        return [self.loader(name) for name in self.test_names]

    def predict_dataloader(self) -> DataLoader[Batch]:
        return self.loader(self.predict_split)

    def _loader(self, name: str, batch_size: int, shuffle: bool = False) -> DataLoader[Batch]:
        prompts = self.encoded(name).prompts
        sampler = self._sampler([one.length for one in prompts], batch_size, shuffle)
        return self._loaded(PromptDataset(prompts, self.subjects, self.pad_id), sampler)

    def _loaded(self, dataset: Dataset[Any], sampler: BucketBatchSampler) -> DataLoader[Any]:
        # Without a generator each new iterator draws its base seed from the global random state, and a resumed run
        # drifts.
        generator = torch.Generator().manual_seed(self.seed)
        workers = self.num_workers
        return PatientLoader(
            dataset,
            sampler=sampler,
            batch_size=None,
            num_workers=workers,
            generator=generator,
            worker_init_fn=begin_worker,
        )

    @property
    def _processes(self) -> tuple[int, int]:
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)

    def _sampler(
        self, lengths: list[int], batch_size: int, shuffle: bool = False, scored: list[int] | None = None
    ) -> BucketBatchSampler:
        return BucketBatchSampler(lengths, batch_size, shuffle, self.seed, *self._processes, scored)

    def _position(self) -> dict[str, int]:
        # Only the trainer knows it: with workers the sampler runs ahead of training.
        assert self.trainer is not None
        epochs = self.trainer.fit_loop.epoch_progress.current
        batches = self.trainer.fit_loop.epoch_loop.batch_progress
        if batches.is_last_batch:
            return {"epoch": epochs.ready, "next_batch": 0}
        return {"epoch": max(epochs.ready - 1, 0), "next_batch": batches.current.processed}

    def _home(self, name: str) -> Splits:
        return self.test_sources.get(name, self.splits)

    def _read(self, name: str) -> list[Question]:
        return self._home(name).questions(self._split(name))

    def _split(self, name: str) -> str:
        known = ("train", "validation", "dev", *self.test_names)
        if name not in known:
            raise ConfigError(f"expected a split but got {name!r}. Hint: {did_you_mean(name, known)}")
        return "test" if name in self.test_names else name

    def _protocol(self, name: str) -> PromptProtocol:
        return self.test_protocols.get(name, self.protocol)
