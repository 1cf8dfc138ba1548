"""What the runs of one process share: the base model, its tokenizer and the data, read once instead of once a run."""

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from moe_tune.base.errors import ModelError
from moe_tune.base.memory import let_go
from moe_tune.callbacks.base_answers import Known
from moe_tune.callbacks.beside_records import KnownBeside
from moe_tune.data.module import QuizDataModule
from moe_tune.models.base_model import BaseModel
from moe_tune.models.family import ModelFamily
from moe_tune.tuner.router_tuner import RouterTuner


class SharedBase(BaseModel):
    """A base model that is loaded once; the heads of one run are taken off before the next puts its own on.

    Args:
        wanted: What the run's configuration says.
    """

    def __init__(self, wanted: BaseModel) -> None:
        super().__init__(**vars(wanted))

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return super().load_tokenizer()

    @cached_property
    def _model(self) -> tuple[PreTrainedModel, ModelFamily]:
        return super().load()

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer, the same object each time."""
        return self._tokenizer

    def load(self) -> tuple[PreTrainedModel, ModelFamily]:
        """Return the model and its family, the same objects each time."""
        return self._model

    def confirm(self, hashes: Mapping[str, str]) -> None:
        """Refuse a model that an earlier run has left changed.

        Raises:
            ModelError: The frozen tensors are not those that the first run started from.
        """
        first = vars(self).setdefault("_first_hashes", hashes)
        changed = sorted(name for name in first.keys() | hashes.keys() if first.get(name) != hashes.get(name))
        if changed:
            raise ModelError(
                f"expected the base model as it was loaded but {len(changed)} tensors differ: {changed[:4]} "
                f"({self.path}). Hint: an earlier run of this process has changed it; run this one by itself."
            )


class Workbench:
    """Hands the runs of one process what an earlier one has read, or asked the pretrained router, already."""

    def __init__(self) -> None:
        self.base_answers: Known = {}
        """What the pretrained router has answered."""
        self.base_beside: KnownBeside = {}
        """What it has made of texts and short answers."""
        self._bases: dict[str, SharedBase] = {}
        self._quizzes: dict[str, QuizDataModule] = {}
        self._tuner: RouterTuner | None = None

    def base(self, wanted: BaseModel) -> BaseModel:
        """Return the shared base model that equals the one wanted; only the last one asked for stays in memory."""
        key = repr(wanted)
        if key not in self._bases:
            self._bases = {key: SharedBase(wanted)}
        return self._bases[key]

    def quiz(self, settings: dict[str, Any], new: QuizDataModule) -> QuizDataModule:
        """Return the data module an earlier run made from the same settings, or the new one."""
        key = json.dumps({name: value for name, value in settings.items() if name != "seed"}, sort_keys=True)
        old = self._quizzes.get(key)
        if old is None or old.splits.limits != new.splits.limits:  # a run above the cache's limit went on with a sample
            self._quizzes[key] = new
            return new
        old.seed = new.seed
        return old

    def begin(self, tuner: RouterTuner) -> None:
        """Take the heads of the run before off the shared model."""
        self.end()
        self._tuner = tuner

    def end(self) -> None:
        """Take the heads of the last run off the shared model, and let go of what else that run held."""
        if self._tuner is None:
            return
        if self._tuner.language_model is not None:
            self._tuner.gated.detach()
        self._tuner = None
        for quiz in self._quizzes.values():
            quiz.trainer = None
        let_go()  # module, trainer and callbacks know one another: kept prompts would stay mapped beside the next's
