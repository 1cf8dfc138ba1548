"""Reading run directories: what a run was, which questions it answered, where its routers sent them."""

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from moe_tune.base.errors import ConfigError, DataError
from moe_tune.base.strict_yaml import parse_yaml
from moe_tune.base.trusted import refuse_foreign
from moe_tune.runs.answers import short_file, short_files, split_files, text_file, text_files

MANIFEST_KEYS = ("name", "head", "scope", "layers", "trainable_parameters", "seed", "base", "protocols", "status")
COMPLETE = ("finished", "evaluated")
"""States of a run that can be compared: a fit that ran to its end, or an evaluation without one."""
QUESTION_COLUMNS = ("id", "content_hash", "subject", "gold", "prediction")
CONTENT_COLUMNS = ["content_hash", "subject", "gold"]
TEXT_COLUMNS = ("id", "content_hash", "tokens", "loss")
SHORT_COLUMNS = ("id", "content_hash", "prompt", "accepted", "answer", "correct")
ROUTING_COLUMNS = ("layer", "scope", "expert", "count", "tokens", "entropy_all_mean", "entropy_topk_mean")


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One finished run, as its directory tells it.

    Attributes:
        path: The run directory.
        manifest: What ``manifest.json`` records.
        config: What ``config.yaml`` holds.
        questions: By split: one row per question, ordered by id.
        routing: By split: one row per layer, scope and expert.
        texts: By text source: one row per document, ordered by id.
        short_answers: By source of short answers: one row per question, ordered by id.
    """

    path: Path
    manifest: dict[str, Any]
    config: dict[str, Any]
    questions: dict[str, pd.DataFrame]
    routing: dict[str, pd.DataFrame]
    texts: dict[str, pd.DataFrame] = field(default_factory=dict)
    short_answers: dict[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Short name of the arm."""
        return str(self.manifest["name"])

    @property
    def seed(self) -> int:
        """Seed of everything random in the run."""
        return int(self.manifest["seed"])

    @property
    def outside(self) -> bool:
        """Whether it is a log of another program."""
        return "outside" in self.manifest

    @property
    def letters_known(self) -> bool:
        """Whether each answer is known, or only whether it was right."""
        return not self.outside or self.manifest["outside"]["known"] in ("log_probs", "prediction")

    @property
    def label(self) -> str:
        """What messages and tables call its files."""
        return str(self.manifest["outside"]["label"]) if self.outside else self.path.resolve().name


def load_run(path: Path) -> Run:
    """Read a run directory.

    Raises:
        DataError: The run is unfinished, or a file is missing, unreadable or lacks columns; the message names it and
            the command that makes it.
    """
    if not path.is_dir():
        raise DataError(
            f"expected a run directory but got {str(path)!r} (compare). "
            f"Hint: `python -m moe_tune fit` prints where it wrote its run."
        )
    manifest = _read_manifest(path)
    if manifest["status"] not in COMPLETE:
        raise DataError(
            f"expected a finished run but got one that is {manifest['status']!r} ({path}). Hint: run the same command "
            f"again; a fit resumes from its last checkpoint. When it has finished, compare."
        )
    config = _read(
        path / "config.yaml", _again(path), lambda file: parse_yaml(file.read_text(encoding="utf-8"), str(file))
    )
    if not isinstance(config, dict):
        raise DataError(f"expected a configuration but got {config!r} ({path / 'config.yaml'}). Hint: {_again(path)}")
    refuse_foreign(config, str(path / "config.yaml"))
    files = split_files(path)
    if not files:
        raise DataError(
            f"expected per-question records but got none ({path / 'questions'}). "
            f"Hint: run `{evaluation_command(path, manifest)}`."
        )
    questions, routing = {}, {}
    for file in files:
        remedy = f"run `{evaluation_command(path, manifest, file.stem)}`."
        questions[file.stem] = read_questions(file, remedy)
        routing[file.stem] = read_routing(path / "routing" / file.name, remedy)
    beside = read_texts(path, manifest), read_short_answers(path, manifest)
    return Run(path, manifest, config, questions, routing, *beside)


def require_same_items(reference: Run, other: Run, split: str) -> None:
    """Refuse to compare runs that answered different questions.

    Raises:
        DataError: Questions, their content or their right answers differ.
    """
    ours, theirs = reference.questions[split], other.questions[split]
    missing, extra = set(ours["id"]) - set(theirs["id"]), set(theirs["id"]) - set(ours["id"])
    if missing or extra:
        raise DataError(
            f"expected the same {len(ours):,} questions but got {len(missing) + len(extra):,} that differ: "
            f"{len(missing):,} only in {reference.label} {_some(missing)}, "
            f"{len(extra):,} only in {other.label} {_some(extra)} (split {split}). "
            f"Hint: evaluate both runs with the same data source, split and limits."
        )
    changed = ours.loc[(ours[CONTENT_COLUMNS] != theirs[CONTENT_COLUMNS]).any(axis=1), "id"]
    if len(changed):
        raise DataError(
            f"expected equal content, subject and right answer but got {len(changed):,} questions that differ "
            f"{_some(set(changed))} ({reference.label} and {other.label}, split {split}). "
            f"Hint: evaluate both runs with the same revision of the data."
        )


def require_same_measurement(reference: Run, other: Run, split: str) -> None:
    """Refuse to compare runs whose questions were asked in different ways.

    Raises:
        DataError: The protocol or the number of worked examples differs.
    """
    ours, theirs = _asked(reference, split), _asked(other, split)
    outside = reference.outside or other.outside
    for what in ours:
        if ours[what] != theirs[what] and not (outside and None in (ours[what], theirs[what])):
            came = f"{ours[what]} in {reference.label} and {theirs[what]} in {other.label}"
            raise DataError(
                f"expected the same {what} but got {came} (split {split}): that is another measurement. "
                f"Hint: evaluate both {'models' if outside else 'runs'} with one data.protocol and one data.few_shot."
            )


def require_same_base(reference: Run, other: Run) -> list[str]:
    """Refuse runs whose base models carry one name but not the same weights; return how the bases differ otherwise.

    Raises:
        DataError: Path, revision and dtype agree, but not the hash of the frozen weights; or the experts of one are
            quantised otherwise than those of the other.
    """
    ours, theirs = _base(reference), _base(other)
    bits = [one.get("quantise") for one in (ours, theirs)]
    if bits[0] != bits[1] and not (reference.outside or other.outside):
        raise DataError(
            f"expected experts quantised alike but got model.base.quantise {bits[0] or 'null'} in {reference.label} "
            f"and {bits[1] or 'null'} in {other.label}. Hint: that is another base model; compare runs of one."
        )
    named = all(ours.get(key) == theirs.get(key) for key in ("path", "revision", "dtype"))
    hashes = [one.pop("frozen_sha256", None) for one in (ours, theirs)]
    if named and None not in hashes and hashes[0] != hashes[1]:
        raise DataError(
            f"expected the same frozen weights of {ours.get('path')} but got the hash {hashes[0]} in "
            f"{reference.label} and {hashes[1]} in {other.label}. Hint: the files of the model changed between "
            "the runs; run both from the same ones."
        )
    return [
        f"{other.name}: model.base.{key} is {theirs[key]}, that of {reference.name} is {ours[key]}."
        for key in ours.keys() & theirs.keys()
        if ours[key] != theirs[key]
    ]


def _base(run: Run) -> dict[str, Any]:
    model = run.config.get("model")
    configured = model.get("base") if isinstance(model, dict) else None
    return {**(configured or {}), **run.manifest["base"]}


def _asked(run: Run, split: str) -> dict[str, Any]:
    """Return how a run asked the questions of a split; ``None`` where the log of another program does not tell."""
    read = run.manifest.get("data", {}).get("prompts", {}).get(split, {})
    if run.outside:
        return {"protocol": None, "number of worked examples": read.get("few_shot")}
    shots = read.get("few_shot", (run.config.get("data") or {}).get("few_shot", 0))
    return {"protocol": run.manifest["protocols"].get(split), "number of worked examples": shots}


def evaluation_command(path: Path, manifest: Mapping[str, Any], split: str = "test") -> str:
    """Return the command that writes a run's records of a split, from its best checkpoint if it has one."""
    verb = "validate" if split == "validation" else "test"
    for name in ("best.ckpt", "last.ckpt"):
        if (path / "checkpoints" / name).is_dir():
            return f"python -m moe_tune {verb} --ckpt_path {shlex.quote(str(path / 'checkpoints' / name))}"
    config = shlex.quote(str(path / "config.yaml"))
    if manifest["status"] == "evaluated":
        of = f" --ckpt_path {shlex.quote(str(manifest['checkpoint']))}" if manifest.get("checkpoint") else ""
        return f"python -m moe_tune {verb}{of} --config {config}"
    return f"python -m moe_tune fit --config {config} --test_after_fit true --fresh true"


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / "manifest.json"
    manifest = _read(file, _again(path), lambda file: json.loads(file.read_text(encoding="utf-8")))
    missing = [key for key in MANIFEST_KEYS if not isinstance(manifest, dict) or key not in manifest]
    if missing:
        raise DataError(f"expected the keys {missing} but they are missing ({file}). Hint: {_again(path)}")
    return dict(manifest)


def read_questions(file: Path, remedy: str) -> pd.DataFrame:
    """Return the answers in a file, ordered by id; ``remedy`` says what makes it anew."""
    table = _read_table(file, remedy, QUESTION_COLUMNS)
    repeated = table.loc[table["id"].duplicated(), "id"]
    if len(repeated):
        raise DataError(
            f"expected each question once but got {len(repeated):,} repeated ids {_some(set(repeated))} ({file}). "
            f"Hint: {remedy}"
        )
    return table.sort_values("id", ignore_index=True)


def read_routing(file: Path, remedy: str) -> pd.DataFrame:
    """Return the routing in a file; ``remedy`` says what makes it anew."""
    return _read_table(file, remedy, ROUTING_COLUMNS)


def read_texts(path: Path, manifest: dict[str, Any], of: str = "") -> dict[str, pd.DataFrame]:
    """Return the losses that a run keeps of each text source; ``of`` is an end of the files' names.

    Raises:
        DataError: A file is missing, unreadable or lacks columns.
    """
    names = [file.stem for file in text_files(path)]
    return {name: _read_beside(path, manifest, text_file(path, name, of), name, TEXT_COLUMNS) for name in names}


def read_short_answers(path: Path, manifest: dict[str, Any], of: str = "") -> dict[str, pd.DataFrame]:
    """Return the answers that a run keeps of each source of short answers; ``of`` is an end of the files' names.

    Raises:
        DataError: A file is missing, unreadable or lacks columns.
    """
    names = [file.stem for file in short_files(path)]
    return {name: _read_beside(path, manifest, short_file(path, name, of), name, SHORT_COLUMNS) for name in names}


def _read_beside(path: Path, manifest: dict[str, Any], file: Path, name: str, columns: tuple[str, ...]) -> pd.DataFrame:
    return _read_table(file, f"run `{evaluation_command(path, manifest, name)}`.", columns).sort_values("id")


def _read_table(file: Path, remedy: str, columns: tuple[str, ...]) -> pd.DataFrame:
    table: pd.DataFrame = _read(file, remedy, pd.read_parquet)
    missing = [column for column in columns if column not in table.columns]
    if missing or table.empty or table[list(columns)].isna().any(axis=None):
        came = f"no {', '.join(missing)}" if missing else "no rows" if table.empty else "empty cells"
        raise DataError(f"expected rows with the columns {', '.join(columns)} but got {came} ({file}). Hint: {remedy}")
    return table


def _read(file: Path, remedy: str, parse: Callable[[Path], Any]) -> Any:
    try:
        return parse(file)
    except ConfigError as error:  # what YAML that a program wrote cannot have
        raise DataError(f"{error} Or {remedy}") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError, pa.ArrowException) as error:
        came = "nothing" if isinstance(error, FileNotFoundError) else type(error).__name__
        raise DataError(f"expected a readable file but got {came} ({file}). Hint: {remedy}") from error


def _again(path: Path) -> str:
    for name in ("best.ckpt", "last.ckpt"):
        config = path / "checkpoints" / name / "config.yaml"
        if config.is_file():
            return f"make it again with `python -m moe_tune fit --config {shlex.quote(str(config))} --fresh true`."
    return "give the command that made it once more, with `--fresh true`."


def _some(ids: set[str], shown: int = 5) -> str:
    listed = ", ".join(sorted(map(str, ids))[:shown])
    return f"({listed}{', ...' if len(ids) > shown else ''})" if ids else ""
