"""Which questions train, select and test, and the manifest that proves it."""

import hashlib
import inspect
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from moe_tune.base.errors import ConfigError, DataError, did_you_mean
from moe_tune.data.copies import GRAM, HeldOut, copy_key
from moe_tune.data.protocol import AUXILIARY
from moe_tune.data.question import Question
from moe_tune.data.source import QuestionSource, Source
from moe_tune.data.validation import OnBadRow, ValidSplit, drop_list_hash, validate_split

SPLITS = ("train", "validation", "test", "dev")
CARVED_OUT_OF = 5
"""One in five content hashes of a carved validation split selects, the other four train."""
ALONE = {0: "test", 1: "validation"}
"""Of questions without a split of their own one in five tests, one selects and three train."""
SAME = "whatever their case, white space and order of choices"


class Splits:
    """The splits of a source: carved where needed, free of test questions, read only when asked for.

    Training questions are the source's own ``train`` split, or validation alone carved about 80/20 into train and
    validation (or train alone, where there is no validation). Questions that also occur in test, whatever their case,
    white space and order of choices, are removed from train, and from validation where it was carved; never from test.
    A source's own validation keeps them, and near-copies (13 words in a row) stay everywhere: they are listed.

    A source that has test only is asked whole, until training questions are needed: then it is split about
    60/20/20 by content hash, copies together (``split_alone``).

    Args:
        source: Where the questions come from.
        train_split: ``train`` takes the source's own (carved from validation if it has none); ``validation`` carves.
        on_bad_row: ``error`` stops at rows that are no questions; ``drop`` leaves them out and records them.
        official: Published sizes must match and no training question may occur in test, or the run stops.
        limits: At most this many questions of a split, as a sample that is stratified by subject.
        further: Splits whose test questions are kept out of training, too.

    Raises:
        ConfigError: ``train_split`` is ``test``, ``dev`` or unknown, or a limit is not positive.
    """

    def __init__(
        self,
        source: QuestionSource,
        train_split: str = "train",
        on_bad_row: OnBadRow = "error",
        official: bool = False,
        limits: Mapping[str, int] | None = None,
        further: Iterable["Splits"] = (),
    ) -> None:
        _check_train_split(train_split)
        self.source = source
        self.on_bad_row: OnBadRow = on_bad_row
        self.official = official
        self.limits, self.further = dict(limits or {}), list(further)
        for split, limit in self.limits.items():
            if limit < 1:
                raise ConfigError(
                    f"expected a positive number but got {limit} (data.limit_{split}). Hint: leave it out."
                )
        self.train_split = train_split
        self.alone = False
        """Whether test questions were split into train, validation and test, as there are no others."""
        self._raw: dict[str, ValidSplit] = {}
        self._used: dict[str, list[Question]] = {}
        self._removed: dict[str, list[Question]] = {}
        self._listed: dict[str, list[str]] = {}
        self._near: dict[str, list[tuple[str, str]]] = {}
        self._said: dict[str, None] = {}

    @cached_property
    def carved(self) -> bool:
        """Whether train and validation are carved from validation."""
        return self.train_split == "validation" or "train" not in self.source.splits()

    @property
    def notes(self) -> tuple[str, ...]:
        """What was recognised, left out, removed and listed so far, a line each."""
        return (*self.source.notes, *self._said)

    @property
    def alone_line(self) -> str:
        """How a source without train and validation was split, in words; nothing where it was not."""
        if not self.alone:
            return ""
        sizes = ", ".join(f"{split} {len(self.questions(split)):,}" for split in SPLITS[:3])
        return f"no train and validation in the data, test questions split by content hash: {sizes}"

    def split_alone(self) -> None:
        """Split the test questions of a source that has no others; for a fit, and whatever reads what it trained."""
        if self.alone or {"train", "validation"} & set(self.source.splits()):
            return
        self.alone = True
        self._used.pop("test", None)

    def questions(self, split: str) -> list[Question]:
        """Return the questions of a split, reading it on first use.

        Raises:
            DataError: Rows are bad, the split does not exist or is empty, or training questions occur in test under
                ``official``.
        """
        if split not in SPLITS:
            raise ConfigError(f"expected a split but got {split!r}. Hint: {did_you_mean(split, SPLITS)}")
        if split in ("train", "validation"):
            self.split_alone()
        if split not in self._used:
            self._used[split] = stratified_sample(self._assigned(split), self.limits.get(split))
        return self._used[split]

    def limit(self, split: str, questions: int) -> None:
        """Go on with at most so many questions of a split, as a sample that is stratified by subject."""
        self.limits[split] = questions
        self._used.pop(split, None)

    @property
    def subjects(self) -> list[str]:
        """The subjects the source declares, or else (which reads all splits) those that occur, sorted.

        ``auxiliary`` comes last once training questions without a subject are read, so that no other index moves.
        """
        declared = self.source.declared_subjects
        splits = self.source.splits() if declared is None else self._raw
        found = {one.subject for split in splits for one in self._read(split).questions}
        named = sorted((found if declared is None else declared) - {AUXILIARY})
        return [*named, AUXILIARY] if AUXILIARY in found else named

    @property
    def trained(self) -> set[str]:
        """The subjects of the training questions, once those are read."""
        return {one.subject for one in self._used.get("train", ())}

    def manifest(self) -> dict[str, Any]:
        """Return what was read so far, as plain values for JSON.

        ``sha256`` of a split is over one line ``id<TAB>letter`` per question, in order: equal hashes mean the same
        questions with the same answers.
        """
        found: dict[str, Any] = {
            "source": {
                "class": type(self.source).__name__,
                "arguments": source_arguments(self.source),
                "revision": self.source.revision(),
            },
            "carved_from_validation": self.carved and not self.alone,
            "removed_because_in_test": {name: [one.id for one in found] for name, found in self._removed.items()},
            "dev_in_test": self._dev_in_test(),
            "read": {name: _describe_read(read) for name, read in self._raw.items()},
            "splits": {name: _describe_split(used, self.limits.get(name)) for name, used in self._used.items()},
        }
        more = {
            "split_from_test": self.alone,
            "carved_from_train": self._origin("train") == "train",
            "notes": list(self.notes),
            "same_origin_as": sorted(self.source.same_origin_as),
            "validation_in_test": self._listed.get("validation", []),
            "near_copies_of_test": {name: found for name, found in self._near.items() if found},
        }
        return found | {name: value for name, value in more.items() if value}

    def _read(self, split: str) -> ValidSplit:
        if split not in self._raw:
            self._raw[split] = validate_split(self.source, split, self.on_bad_row, self.official)
        return self._raw[split]

    def _assigned(self, split: str) -> list[Question]:
        if self.alone and split != "dev":
            return self._part_of_test(split)
        origin = self._origin(split)
        if origin == "train":
            self._say("validation: one in five questions of train, by content hash, as there is no validation split")
        questions = self._read(origin or split).questions
        if origin is None:
            if split == "train":
                return self._without_test(split, questions)
            return self._listing_test(questions) if split == "validation" else questions
        # A function of the content alone, so that repeats of a question stay on one side.
        part = [one for one in questions if (int(one.content_hash, 16) % CARVED_OUT_OF == 0) == (split == "validation")]
        return self._without_test(split, part)

    def _origin(self, split: str) -> str | None:
        if split not in ("train", "validation"):
            return None
        if self.carved:
            return "validation"
        return None if "validation" in self.source.splits() else "train"

    def _part_of_test(self, split: str) -> list[Question]:
        every = self._read("test").questions
        part = [one for one in every if ALONE.get(int(copy_key(one), 16) % CARVED_OUT_OF, "train") == split]
        if not part:
            raise DataError(
                f"expected questions for {split!r} but none of {len(every)} falls to it ({self.source.revision()}). "
                "Hint: give the source more questions, or files train, validation and test."
            )
        return part

    def _without_test(self, split: str, questions: list[Question]) -> list[Question]:
        for one in (self, *self.further):
            if "test" in one.source.splits():
                one._read("test")
        copies = set(self._held_out.copies(questions))
        self._removed[split] = [one for one in questions if one.id in copies]
        kept = [one for one in questions if one.id not in copies]
        if self._removed[split] and self.official:
            first = self._removed[split][0].id
            raise DataError(
                f"expected no question of {split!r} in test but got {len(self._removed[split])}, the first is {first} "
                f"({self.source.revision()}). Hint: without data.official they are removed."
            )
        if not kept:
            raise DataError(
                f"expected questions in {split!r} that are not in test but got none ({self.source.revision()}). "
                "Hint: give the source more training questions."
            )
        if copies:
            self._say(f"{split}: {len(copies)} of {len(questions)} questions are in test too ({SAME}): removed")
        self._list_near(split, kept)
        return kept

    def _listing_test(self, questions: list[Question]) -> list[Question]:
        if "test" in self._raw:
            copies = set(self._listed.setdefault("validation", self._held_out.copies(questions)))
            if copies:
                said = "kept, as they are the source's own, and listed in the manifest"
                self._say(f"validation: {len(copies)} of {len(questions)} questions are in test too ({SAME}): {said}")
            self._list_near("validation", [one for one in questions if one.id not in copies])
        return questions

    @cached_property
    def _held_out(self) -> HeldOut:
        read = (one._raw["test"] for one in (self, *self.further) if "test" in one._raw)
        return HeldOut([question for split in read for question in split.questions])

    def _list_near(self, split: str, questions: list[Question]) -> None:
        self._near[split] = self._held_out.near_copies(questions)
        if self._near[split]:
            said = f"share {GRAM} words in a row with one of test: kept, and listed in the manifest"
            self._say(f"{split}: {len(self._near[split])} of {len(questions)} questions {said}")

    def _say(self, line: str) -> None:
        self._said[line] = None

    def _dev_in_test(self) -> list[str]:
        if not {"dev", "test"} <= set(self._raw):
            return []
        held_out = {one.content_hash for one in self._raw["test"].questions}
        return [one.id for one in self._raw["dev"].questions if one.content_hash in held_out]


def stratified_sample(questions: Sequence[Question], limit: int | None) -> list[Question]:
    """Return at most ``limit`` questions with each subject's share kept, in their original order.

    A pure function of the questions: within a subject the smallest content hashes come first, and a smaller sample is
    part of every larger one.
    """
    if limit is None or limit >= len(questions):
        return list(questions)
    by_subject: defaultdict[str, list[Question]] = defaultdict(list)
    for one in questions:
        by_subject[one.subject].append(one)
    order: list[tuple[float, str, str]] = []
    for members in by_subject.values():
        ranked = sorted(members, key=lambda one: (one.content_hash, one.id))
        order += [((rank + 0.5) / len(ranked), one.content_hash, one.id) for rank, one in enumerate(ranked)]
    chosen = {identifier for _, _, identifier in sorted(order)[:limit]}
    return [one for one in questions if one.id in chosen]


def questions_hash(questions: Sequence[Question]) -> str:
    """Return the sha256 over the ids and answers of questions, in order."""
    return hashlib.sha256("".join(f"{one.id}\t{one.letter}\n" for one in questions).encode()).hexdigest()


def _check_train_split(train_split: str) -> None:
    reasons = {"test": "test questions are never trained on", "dev": "dev serves few-shot examples only"}
    if train_split not in ("train", "validation"):
        reason = reasons.get(train_split, did_you_mean(train_split, ("train", "validation")))
        raise ConfigError(
            f"expected 'train' or 'validation' but got {train_split!r} (data.train_split): {reason}. "
            "Hint: 'validation' is carved 80/20 into train and validation."
        )


def source_arguments(source: Source) -> dict[str, Any]:
    """Return the arguments of a source that are plain values, as a manifest tells them."""
    # Plug-ins keep their arguments under the same names; what they keep in another form is covered by the revision.
    values = {name: getattr(source, name, None) for name in inspect.signature(type(source)).parameters}
    return {name: value for name, value in values.items() if isinstance(value, str | int | float | list | dict)}


def _describe_read(read: ValidSplit) -> dict[str, Any]:
    return {
        "rows": read.rows,
        "warnings": list(read.warnings),
        "dropped": [{"where": one.where, "reason": one.reason} for one in read.dropped],
        "dropped_sha256": drop_list_hash(read.dropped),
    }


def _describe_split(questions: list[Question], limit: int | None) -> dict[str, Any]:
    return {
        "n": len(questions),
        "limit": limit,
        "sha256": questions_hash(questions),
        "repeated": len(questions) - len({one.content_hash for one in questions}),
        "subjects": dict(sorted(Counter(one.subject for one in questions).items())),
    }
