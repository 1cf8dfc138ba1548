"""Strict checks between a source's raw rows and questions."""

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from moe_tune.base.errors import DataError
from moe_tune.data.answer_base import Numbered, check_answer_base, numbered
from moe_tune.data.protocol import AUXILIARY
from moe_tune.data.question import LETTERS, Question, number_questions, text_hash
from moe_tune.data.source import QuestionSource, RawRow

logger = logging.getLogger(__name__)

COLUMNS = ("question", "subject", "choices", "answer")
MAX_BYTES = 1_000_000
"""A question larger than this, choices included, is taken for a damaged row."""
SHOWN = 20
"""At most this many places are listed in a message; the manifest lists all."""
FEW = 20
"""With fewer questions a subject's accuracy has an interval of more than 40 points."""
LEAST_INDEX = 5
"""Stems that are whole numbers in a row are an index column, from this many on."""

OnBadRow = Literal["error", "drop"]
ParsedRow = tuple[str, str, tuple[str, ...], int]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no question."""

    where: str
    reason: str


@dataclass(frozen=True, slots=True)
class ValidSplit:
    """The questions of a split and what was noticed about them.

    Args:
        split: The split's name.
        questions: The valid questions, in the order of the source.
        rows: Number of rows read, bad ones included.
        dropped: The bad rows that were left out.
        warnings: Findings that do not stop a run.
    """

    split: str
    questions: list[Question]
    rows: int
    dropped: tuple[BadRow, ...]
    warnings: tuple[str, ...]


def validate_split(
    source: QuestionSource, split: str, on_bad_row: OnBadRow = "error", official: bool = False
) -> ValidSplit:
    """Read a split and return its questions.

    Raises:
        DataError: Columns are missing or unknown, rows are bad under ``error``, fewer than two questions are left, a
            declared subject has none, or the size differs under ``official``.
    """
    valid: list[ParsedRow] = []
    places: list[str] = []
    bad: list[BadRow] = []
    answers: list[Numbered] = []
    rows = 0
    for rows, row in enumerate(source.rows(split), start=1):  # noqa: B007
        if row.fault is None:
            _check_columns(row)
        answers += filter(None, [numbered(row)])
        reason = row.fault or row_fault(row.values, source.choice_counts, source.declared_subjects)
        if reason:
            bad.append(BadRow(row.where, reason))
        else:
            valid.append(parsed_row(row.values))
            places.append(row.where)
    doubt = check_answer_base(source, split, answers)
    _refuse_index(valid, source, split)
    contradictory = contradictions(valid)
    bad += [BadRow(places[index], "the same question has another answer in this split") for index in contradictory]
    questions = number_questions(row for index, row in enumerate(valid) if index not in contradictory)
    if bad and on_bad_row == "error":
        raise DataError(bad_rows_message(bad, f"{source.revision()}, split {split}"))
    warnings = [*([doubt] if doubt else []), *_findings(questions)]
    if split == "test":
        warnings += _few_per_subject(questions)
    if bad:
        warnings.append(f"{len(bad)} of {rows} rows dropped: {by_reason(bad)}")
    known = source.known_sizes.get(split)
    if known is not None and rows != known:
        finding = f"expected {known} rows in the split {split!r} but got {rows} ({source.revision()})"
        if official:
            raise DataError(f"{finding}. Hint: use the published data, or leave data.official off.")
        warnings.append(finding)
    _check_coverage(questions, source, split)
    for finding in warnings:
        logger.warning("%s: %s", split, finding)
    return ValidSplit(split, questions, rows, tuple(bad), tuple(warnings))


def bad_rows_message(bad: list[BadRow], where: str) -> str:
    """Return the message that lists bad rows by reason and place, and counts them by reason."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for one in bad[:SHOWN]:
        places[one.reason].append(one.where)
    alone = len({one.reason for one in bad}) == 1
    listed = "".join(f"\n  {', '.join(them)}{'' if alone else f': {why}'}" for why, them in places.items())
    more = f"\n  ... and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    said = f"{len(bad)} bad ones ({where}): {by_reason(bad)}{listed}{more}"
    if len(bad) == 1:
        said = f"1 bad one ({where}): {bad[0].where}: {bad[0].reason}"
    return (
        f"expected valid rows but got {said}\n"
        "Hint: mend them, or leave them out and record it with --data.on_bad_row drop."
    )


def by_reason(bad: list[BadRow]) -> str:
    """Return how many rows are bad for which reason."""
    counts = Counter(one.reason for one in bad)
    return "; ".join(f"{count} x {reason}" for reason, count in counts.most_common(SHOWN))


def drop_list_hash(dropped: Iterable[BadRow]) -> str:
    """Return the sha256 that pins which rows were left out and why."""
    return hashlib.sha256("\n".join(f"{one.where}\t{one.reason}" for one in dropped).encode()).hexdigest()


def _check_columns(row: RawRow) -> None:
    if set(row.values) != set(COLUMNS):
        raise DataError(
            f"expected the columns {list(COLUMNS)} but got {sorted(row.values)} ({row.where}). "
            "Hint: choices is a list of texts, answer an index from 0 or a letter."
        )


def row_fault(
    values: dict[str, Any], choice_counts: frozenset[int], declared_subjects: frozenset[str] | None = None
) -> str | None:
    """Return why a row is no question; ``None`` if it is one."""
    choices, subject = values["choices"], values["subject"]
    if not isinstance(choices, list | tuple):
        return f"choices is {type(choices).__name__}, not a list"
    if len(choices) not in choice_counts:
        return f"{len(choices)} choices, not {_counts(choice_counts)}"
    texts = {"question": values["question"], "subject": subject}
    texts |= {f"choice {LETTERS[index]}": choice for index, choice in enumerate(choices)}
    for name, text in texts.items():
        fault = text_fault(text)
        if fault:
            return f"{name} {fault}"
    if sum(len(text.encode()) for text in texts.values()) > MAX_BYTES:
        return f"more than {MAX_BYTES} bytes"
    if declared_subjects is not None and subject not in declared_subjects | {AUXILIARY}:
        return f"unknown subject {subject!r}"
    if not _is_answer(values["answer"], len(choices)):
        return f"answer is {values['answer']!r}, not 0 to {len(choices) - 1} or A to {LETTERS[len(choices) - 1]}"
    return None


def _counts(counts: frozenset[int]) -> str:
    least, most = min(counts), max(counts)
    if most - least > 2 and len(counts) == most - least + 1:
        return f"{least} to {most}"
    return " or ".join(map(str, sorted(counts)))


def text_fault(text: Any) -> str | None:
    """Return why a value is no text to read: another type, nothing in it, or characters that no file can hold."""
    if text is None:
        return "is missing or null"
    if not isinstance(text, str):
        return f"is {type(text).__name__}, not text"
    if not text.strip():
        return "is empty"
    if "\x00" in text:
        return "holds a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds a lone surrogate"
    return None


def _is_answer(answer: Any, count: int) -> bool:
    if isinstance(answer, str):
        return len(answer) == 1 and answer in LETTERS[:count]
    return type(answer) is int and 0 <= answer < count


def parsed_row(values: dict[str, Any]) -> ParsedRow:
    """Return subject, stem, choices and the place of the right one of a row without faults."""
    answer = values["answer"]
    index = LETTERS.index(answer) if isinstance(answer, str) else answer
    return values["subject"], values["question"], tuple(values["choices"]), index


def _refuse_index(valid: list[ParsedRow], source: QuestionSource, split: str) -> None:
    stems = [stem.strip() for _, stem, _, _ in valid]
    if len(stems) < LEAST_INDEX or not all(one.isascii() and one.isdigit() and len(one) < 10 for one in stems):
        return
    first = int(stems[0])
    if [int(one) for one in stems] == list(range(first, first + len(stems))):
        raise DataError(
            f"expected questions but the stems are {stems[0]}, {stems[1]}, {stems[2]}, ...: an index column? "
            f"({source.revision()}, split {split}). Hint: give the file a header, or name the columns in "
            "data.source.columns."
        )


def contradictions(valid: list[ParsedRow]) -> dict[int, None]:
    """Return the places of questions that occur with several answers, choices in any order."""
    answers: defaultdict[str, set[int | str]] = defaultdict(set)
    keys = []
    for _, stem, choices, answer in valid:
        same, permuted = text_hash(stem, *choices), text_hash("permuted", stem, *sorted(choices))
        answers[same].add(answer)
        answers[permuted].add(text_hash(choices[answer]))
        keys.append((same, permuted))
    # A dict keeps the order of the source, for the drop list and its hash.
    return {index: None for index, both in enumerate(keys) if any(len(answers[key]) > 1 for key in both)}


def _findings(questions: list[Question]) -> list[str]:
    findings = []
    double = sum(len(set(one.choices)) < len(one.choices) for one in questions)
    if double:
        findings.append(f"{double} questions have two equal choices (their answer is ambiguous)")
    repeats = len(questions) - len({one.content_hash for one in questions})
    if repeats:
        findings.append(f"{repeats} questions repeat an earlier one (statistics must cluster by content_hash)")
    permuted = len({one.content_hash for one in questions}) - len(
        {text_hash(one.stem, *sorted(one.choices)) for one in questions}
    )
    if permuted:
        findings.append(f"{permuted} questions repeat an earlier one with the choices in another order")
    letter, count = Counter(one.letter for one in questions).most_common(1)[0] if questions else ("", 0)
    if len(questions) >= 20 and count > 0.9 * len(questions):
        findings.append(f"{count} of {len(questions)} answers are {letter}")
    return findings


def _few_per_subject(questions: list[Question]) -> list[str]:
    counts = Counter(one.subject for one in questions)
    few = sorted(subject for subject, count in counts.items() if count < FEW)
    if not few:
        return []
    named = ", ".join(few[:5]) + (", ..." if len(few) > 5 else "")
    return [f"{len(few)} of {len(counts)} subjects have fewer than {FEW} questions, too few to say much: {named}"]


def _check_coverage(questions: list[Question], source: QuestionSource, split: str) -> None:
    if len(questions) < 2:
        raise DataError(
            f"expected at least 2 questions in the split {split!r} but got {len(questions)} ({source.revision()}). "
            "Hint: check the source's files and data.on_bad_row."
        )
    # Training questions may come without subjects; everything that is averaged per subject must have them all.
    missing = (source.declared_subjects or frozenset()) - {one.subject for one in questions}
    if missing and split != "train":
        raise DataError(
            f"expected all declared subjects in the split {split!r} but got none of {sorted(missing)} "
            f"({source.revision()}). Hint: complete the data; macro averages need every subject."
        )
