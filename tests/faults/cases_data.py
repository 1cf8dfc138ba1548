"""D1 to D20: questions that are none, files that are broken, splits that overlap; read as a run reads them."""

import csv
import io
import json
import logging
import os
import tarfile
import zipfile
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from moe_tune.base.errors import MoeTuneError
from moe_tune.data.encoding import PromptEncoder
from moe_tune.data.hub_questions import HubQuestions
from moe_tune.data.local_files import LocalFiles
from moe_tune.data.protocol import load_protocol
from moe_tune.data.splits import Splits
from moe_tune.data.validation import validate_split
from moe_tune.faults.case import Case
from moe_tune.faults.tiny import TINY, told
from moe_tune.models.base_model import BaseModel

logging.getLogger("moe_tune.data").setLevel(logging.ERROR)


def row(question="What is 1 + 1?", choices=("1", "2", "3", "4"), answer=1, **other):
    return {"question": question, "subject": "sums", "choices": list(choices), "answer": answer, **other}


def rows_of(count, start=0):
    return [row(f"What is {start + n} + 1?", answer=n % 4) for n in range(count)]


def lines(rows):
    return "".join(json.dumps(one) + "\n" for one in rows).encode()


def parquet(rows):
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


GOOD = lines(rows_of(8))


def written(trial, files):
    folder = trial.folder / f"data{len(list(trial.folder.iterdir()))}"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return str(folder)


def read(trial, files, bad="error", official=False, **options):
    return validate_split(LocalFiles(written(trial, files), **options), "test", bad, official)


def all_refused(variants, trial, code=3):
    """Return how many variants end with the code and their words; what of them did not, if any did."""
    off = []
    for name, (files, words, *options) in variants.items():
        try:
            read(trial, files if isinstance(files, dict) else {"test.jsonl": files}, **(options[0] if options else {}))
            off.append(f"{name}: accepted")
        except MoeTuneError as fault:
            if fault.exit_code != code or words not in str(fault):
                off.append(f"{name}: exit {fault.exit_code} {str(fault)[:200]}")
    return "; ".join(off) or f"{len(variants)} of {len(variants)} exit {code}"


def refused(kind, name, variants, code=3):
    count = len(variants)
    return Case(kind, name, f"{count} of {count} exit {code}", partial(all_refused, variants, code=code))


def among(**changes):
    """Return a split of eight good rows, and one with changes that must be a bad row."""
    return GOOD + lines([row("What else?", **changes)])


CHOICES = {
    "1": (among(choices="a"), "1 choices", {"choice_counts": [4]}),
    "17": (among(choices=[f"{n}." for n in range(17)]), "17 choices"),
    "0": (among(choices=()), "0 choices"),
    "an empty one": (among(choices=("1", "", "3", "4")), "choice B is empty"),
    "a blank one": (among(choices=(" \n", "2", "3", "4")), "choice A is empty"),
    "five where four are allowed": (among(choices="abcde"), "5 choices", {"choice_counts": [4]}),
}
ANSWERS = {
    str(answer): (among(answer=answer), "answer is") for answer in (-1, 4, "E", 1.5, True, None, "", "AB", [1], "9")
}
QUESTIONS = {
    "empty": (GOOD + lines([{**row(), "question": ""}]), "question is empty"),
    "null": (GOOD + lines([{**row(), "question": None}]), "question is"),
    "a number": (GOOD + lines([{**row(), "question": [3]}]), "question is"),
    "1 MB": (GOOD + lines([{**row(), "question": "x" * 1_000_001}]), "more than 1000000 bytes"),
}
COLUMNS = {
    "no answers": (lines([{"question": "a?", "choices": ["1", "2"]}] * 2), "columns"),
    "an object around the rows": ({"test.json": b'{"train": {"question": ["a?"]}}'}, "array of objects"),
    "choices are text": (GOOD + lines([{**row(), "choices": "abcd"}]), "choices"),
}
UNICODE = ["e\u0301", "\u00e9", "\u05d0\u05d1", "a\u200bb", "\U0001f642", "\ufeffa", "a\r\nb", r"$\frac{1}{2}$"]
TEXTS = {
    "NUL": (GOOD + lines([row("a\x00b")]), "NUL"),
    "a lone surrogate": (GOOD + lines([row("a\ud800b")]), "lone surrogate"),
}
CSV = {
    "ragged": ({"sums_test.csv": b'"a\nb",1,2,3,4,A\nb,1,2,3,A\n'}, "sums_test.csv:3"),
    "an open quote": ({"sums_test.csv": b'a,1,2,3,4,A\n"b,1,2,3,4,A\n'}, "sums_test.csv:2"),
    "two encodings": ({"sums_test.csv": b"a,1,2,3,4,A\n\xff,1,2,3,4,A\n"}, "sums_test.csv:2"),
    "UTF-16": ({"sums_test.csv": "a,1,2,3,4,A\n".encode("utf-16")}, "sums_test.csv:1"),
}
JSONL = {
    "a broken last line": (GOOD + b'{"question": "Wh', "test.jsonl:9"),
    "NaN": (GOOD + b'{"question": "a", "answer": NaN}\n', "test.jsonl:9"),
    "a key twice": (GOOD + b'{"answer": 1, "answer": 2}\n', "test.jsonl:9"),
    "no object": (GOOD + b"[1]\n", "test.jsonl:9"),
}
WHOLE = parquet(rows_of(500))
PARQUET = {
    **{f"cut at {part} %": ({"test.parquet": WHOLE[: len(WHOLE) * part // 100]}, "parquet") for part in (0, 50, 99)},
    "another magic": ({"test.parquet": b"this is no parquet file"}, "parquet"),
}
EMPTY = {
    "no rows": (b"", "at least 2"),
    "one row": (lines([row()]), "at least 2"),
    "another split": ({"validation.jsonl": GOOD}, "but got 'test'"),
}


def duplicates(trial):
    seen = read(trial, {"test.jsonl": GOOD + lines([row("b?", choices=("1", "1", "2", "3"))])})
    return "told" if any("two equal choices" in one for one in seen.warnings) else f"not told: {seen.warnings}"


def accepted(trial):
    wanted = {0: 0, 3: 3, "A": 0, "D": 3, "a": 0, "2": 2}
    rows = [row(f"{name} {type(name)}?", answer=name) for name in (0, 3)]
    letters = [row(f"{name}?", answer=name) for name in ("A", "D", "a")]
    came = [one.answer for part in (rows, letters) for one in read(trial, {"test.jsonl": lines(part)}).questions]
    return "as written" if came == [wanted[one] for one in (0, 3, "A", "D", "a")] else f"{came}"


def from_one(trial):
    rows = [row(f"Question {n}?", answer=n % 4 + 1) for n in range(60)]
    try:
        read(trial, {"test.jsonl": lines(rows)}, "drop")
    except MoeTuneError as fault:
        asked = [one.answer for one in read(trial, {"test.jsonl": lines(rows)}, answers_from=1).questions]
        return told(fault.exit_code, str(fault), "answers_from 1") + (", on request" if asked[:2] == [0, 1] else ", no")
    return "accepted"


def dropped(trial):
    seen = read(trial, {"test.jsonl": among(answer=9)}, "drop")
    return f"{len(seen.questions)} of {seen.rows}, {len(seen.dropped)} recorded"


def extra(trial):
    source = LocalFiles(written(trial, {"test.jsonl": lines([{**one, "note": "x"} for one in rows_of(4)])}))
    count = len(validate_split(source, "test").questions)
    named = [one for one in source.notes if "note" in one]
    return f"{count} questions, named {'once' if len(named) == 1 else len(named)}"


class Declared(LocalFiles):
    """Own files that say beforehand what they hold."""

    declared_subjects = frozenset({"sums", "maps"})
    known_sizes = {"test": 9}


def declared(trial):
    try:
        validate_split(Declared(written(trial, {"test.jsonl": GOOD})), "test")
    except MoeTuneError as fault:
        return told(fault.exit_code, str(fault), "none of ['maps']")
    return "accepted"


def sizes(trial):
    files = written(trial, {"test.jsonl": GOOD + lines([{**one, "subject": "maps"} for one in rows_of(2, 90)])})
    said = validate_split(Declared(files), "test").warnings
    try:
        validate_split(Declared(files), "test", official=True)
    except MoeTuneError as fault:
        warned = "a warning" if any("expected 9 rows" in one for one in said) else "no warning"
        return f"{warned}, official {told(fault.exit_code, str(fault), 'expected 9 rows')}"
    return "accepted"


def unknown_subject(trial):
    source = Declared(written(trial, {"test.jsonl": GOOD + lines([{**row("b?"), "subject": "Sums"}])}))
    try:
        validate_split(source, "test")
    except MoeTuneError as fault:
        return told(fault.exit_code, str(fault), "unknown subject 'Sums'")
    return "accepted"


def encoder(limit, *rows, trial, bad="error"):
    source = {"test.jsonl": lines(rows)}
    asked = read(trial, source).questions
    return PromptEncoder(BaseModel("nano").load_tokenizer(), load_protocol("nano_quiz"), limit).encode(asked, bad)


def too_long(trial):
    rows = [row("short?"), row("long " * 400), row("also short?")]
    try:
        encoder(200, *rows, trial=trial)
    except MoeTuneError as fault:
        kept = encoder(200, *rows, trial=trial, bad="drop")
        longest = max(len(one.ids_S) for one in kept.prompts)
        return (
            f"{told(fault.exit_code, str(fault), 'longer than 200 tokens')}, {len(kept.prompts)} kept, {longest <= 200}"
        )
    return "accepted"


def letters(trial):
    try:  # nano knows A to D
        encoder(4096, row("a?", choices="abcdefgh"), row("b?"), trial=trial)
    except MoeTuneError as fault:
        return told(fault.exit_code, str(fault), "letter")
    return "accepted"


def control_tokens(trial):
    tokenizer = BaseModel("nano").load_tokenizer()
    special = tokenizer.all_special_tokens
    found = encoder(4096, row(f"see {' '.join(special)} here?"), row("b?"), trial=trial).prompts[0]
    ids = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    plain = encoder(4096, row("see it here?"), row("b?"), trial=trial).prompts[0]
    more = [one for one in found.ids_S.tolist() if one in ids]
    return "text" if len(more) == len([one for one in plain.ids_S.tolist() if one in ids]) else f"control tokens {more}"


def repeats(trial):
    rows = [row("a?", answer=1), row("b?"), row("a?", answer=2), row("b?"), row("c?", choices="abcd", answer=0)]
    rows += [row("c?", choices="dcba", answer=3), row("d?")]
    seen = read(trial, {"test.jsonl": lines(rows)}, "drop")
    said = " ".join(seen.warnings)
    told_both = "repeat" in said and "choices in another order" in said
    return f"{len(seen.dropped)} contradictory dropped, {'repeats told' if told_both else said}"


def leak(trial):
    own = [row(f"Is leak {n} in both?", choices=[f"{n}.", "b", "c", "d"]) for n in range(3)]
    files = {"train.jsonl": lines(own + rows_of(20, 50)), "validation.jsonl": lines(rows_of(8, 200))}
    source = LocalFiles(written(trial, files | {"test.jsonl": lines(own + rows_of(8, 300))}))
    splits = Splits(source)
    train, test = len(splits.questions("train")), len(splits.questions("test"))
    removed = len(splits.manifest()["removed_because_in_test"]["train"])
    try:
        Splits(source, official=True).questions("train")
    except MoeTuneError as fault:
        return f"train {train}, test {test}, {removed} listed, official {told(fault.exit_code, str(fault), 'in test')}"
    return "official accepted"


def exact(trial):
    asked = [row(f"{text} {n}?") for n, text in enumerate(UNICODE)]
    came = [one.stem for one in read(trial, {"test.jsonl": lines(asked)}).questions]
    return "exact" if came == [one["question"] for one in asked] else f"{came}"


def formulas(trial):
    text = io.StringIO()
    csv.writer(text).writerows([["=1+1\nand, more", "+2", "-3", "@x", "=cmd|", "B"], ["b", *"1234", "A"]])
    (first, _) = read(trial, {"sums_test.csv": text.getvalue().encode()}).questions
    return "text" if (first.stem, first.choices) == ("=1+1\nand, more", ("+2", "-3", "@x", "=cmd|")) else f"{first}"


def archives(trial):
    out, off = trial.folder / "out.txt", []
    with zipfile.ZipFile(trial.folder / "test.zip", "w") as file:
        file.writestr("../out.txt", "x")
    with tarfile.open(trial.folder / "test.tar.gz", "w:gz") as file:
        for name in ("../out.txt", str(out)):
            file.addfile(tarfile.TarInfo(name), io.BytesIO())
    for name in ("test.zip", "test.tar.gz"):
        try:
            LocalFiles(str(trial.folder / name))
            off.append(name)
        except MoeTuneError as fault:
            off += [] if fault.exit_code == 2 and "archives are not unpacked" in str(fault) else [str(fault)]
    return "; ".join(off) or f"exit 2, {'a file outside' if out.exists() else 'nothing written'}"


def script(trial):
    folder = written(trial, {"quiz.py": b"raise SystemExit('ran')", "test.jsonl": GOOD})
    os.rename(f"{folder}/quiz.py", f"{folder}/{os.path.basename(folder)}.py")  # as a loading script is called
    read_all = len(validate_split(LocalFiles(folder), "test").questions)
    try:
        HubQuestions("maker/quiz", "main")
    except MoeTuneError as fault:
        return (
            f"{read_all} questions, no code, a name that moves {told(fault.exit_code, str(fault), '40-digit commit')}"
        )
    return "accepted"


def all_a(trial):
    said = read(trial, {"test.jsonl": lines([row(f"Question {n}?", answer=0) for n in range(40)])}).warnings
    return "told" if any("40 of 40 answers are A" in one for one in said) else f"{said}"


def tested_in_a_fit(trial):
    ended = [trial.run([*TINY, f"--data.train_split={split}"]) for split in ("test", "dev")]
    return ", ".join(told(one.code, one.err, "train_split") for one in ended)


def fit_of_bad_rows(trial):
    files = {
        "train.jsonl": lines(rows_of(20)),
        "validation.jsonl": lines(rows_of(8, 50)),
        "test.jsonl": among(answer=9),
    }
    words = ["--data.source=LocalFiles", f"--data.source.path={written(trial, files)}"]
    plain = [word for word in TINY if not word.startswith("--data.source.")]
    ended = trial.run([*plain, *words])
    runs = list((trial.folder / "runs").glob("*-s0-*")) if (trial.folder / "runs").is_dir() else []
    return f"{told(ended.code, ended.err, 'test.jsonl', 'answer is', 'on_bad_row drop')}, {len(runs)} runs"


CASES = [
    refused("D1", "0, 1, 17 choices, one too many, an empty and a blank one", CHOICES),
    Case("D1", "two equal choices", "told", duplicates),
    refused("D2", "answers that are none", ANSWERS),
    Case("D2", "answers by index and by letter in either case", "as written", accepted),
    Case("D2", "answers counted from 1, also under drop", "exit 3, on request", from_one),
    Case("D2", "a fit that reads one", "exit 3, 0 runs", fit_of_bad_rows),
    Case("D2", "a bad row under on_bad_row drop", "8 of 9, 1 recorded", dropped),
    refused("D3", "questions that are none", QUESTIONS),
    refused("D4", "columns that are missing, of another type, or wrapped", COLUMNS),
    Case("D4", "a further column", "4 questions, named once", extra),
    refused("D5", "an empty split, one row, no such split", EMPTY),
    Case("D5", "a declared subject without rows", "exit 3", declared),
    Case("D6", "a subject in another case than declared", "exit 3", unknown_subject),
    Case("D7", "another size than the published one", "a warning, official exit 3", sizes),
    Case("D8", "a prompt longer than the context", "exit 3, 2 kept, True", too_long),
    Case("D9", "a letter without a token", "exit 4", letters),
    Case("D10", "copies, permuted choices, another key", "2 contradictory dropped, repeats told", repeats),
    Case("D11", "training questions in test", "train 20, test 11, 3 listed, official exit 3", leak),
    Case("D12", "eight kinds of unusual text", "exact", exact),
    refused("D12", "NUL and a lone surrogate", TEXTS),
    Case("D13", "control tokens in a question", "text", control_tokens),
    refused("D14", "CSV: ragged, quotes, encodings", CSV),
    Case("D14", "CSV: formula-like cells, new lines, commas", "text", formulas),
    refused("D15", "JSONL: a broken line, NaN, a key twice", JSONL),
    refused("D16", "parquet: cut, another magic", PARQUET),
    Case("D17", "archives that point outside", "exit 2, nothing written", archives),
    Case("D18", "a loading script; a revision that moves", "8 questions, no code, a name that moves exit 2", script),
    Case("D19", "all answers A", "told", all_a),
    Case("D20", "test or dev as the training split", "exit 2, exit 2", tested_in_a_fit),
]
