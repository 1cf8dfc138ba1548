"""Comparing what two versions of the program left in a folder: by value, equal bits, file by file."""

import csv
import json
import re
from dataclasses import dataclass, field

import pyarrow.parquet
import safetensors.torch
import torch
import yaml

VARYING = re.compile(r"(.*_)?(time|seconds|memory|memory_gib|date|created|started|finished|checksum)")
"""Keys of what is another one in every run."""
HEX = re.compile(r"-[0-9a-f]{8}(?=[/-]|$)")
"""The digits of a configuration in a folder's name."""
MOMENT = re.compile(r"\d{4}-\d\d-\d\d(T[\d:.+]+)?")
COST = re.compile(r"\d+ s, at most [\d.]+ GiB|[\d.,]+ (s|seconds|GiB)\b")
OWN = ("configs", "complete")
"""What the comparison itself puts into a folder."""
UNSEEN = (".html", ".png")
"""Pages and figures: that they are there is compared, not what is drawn how."""
SHOWN = 6
"""Differences of one file that are printed."""


@dataclass
class Result:
    """What a comparison of one thing found.

    Args:
        what: The thing.
        size: How much was compared, in words.
        differences: Where the two differ, by place.
        additions: What only the new one has and is free to have.
    """

    what: str
    size: str = ""
    differences: dict[str, str] = field(default_factory=dict)
    additions: list[str] = field(default_factory=list)


ALIGNED = re.compile(r"^\|[ :|-]+\|$", re.MULTILINE)
"""The line of a Markdown table that says how its columns are aligned."""


def same(a, b):
    """Return whether two plain values are the same to the bit; NaN equals NaN, and 0.0 does not equal -0.0."""
    if isinstance(a, float) and isinstance(b, float):
        return a.hex() == b.hex()
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and raw(a) == raw(b)
    return type(a) is type(b) and a == b


def raw(tensor):
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def said(a, b):
    """Return in words how two values differ."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and a.shape == b.shape and a.dtype == b.dtype:
        apart = (a.double() - b.double()).abs()
        return f"{int((apart != 0).sum())} of {apart.numel()} values, at most {apart.max():.3g} apart"
    return f"{short(a)} -> {short(b)}"


def short(value):
    text = f"{tuple(value.shape)} {value.dtype}" if isinstance(value, torch.Tensor) else repr(value)
    return text if len(text) < 90 else f"{text[:87]}..."


def compare_trees(result, a, b, place="", free=True):
    """Compare nested mappings, lists, tensors and plain values; return how many values were compared.

    Args:
        result: Gets differences and additions.
        a: What the reference left.
        b: What the other left.
        place: Where in the file they stand.
        free: Whether mappings may have keys that the reference's have not.
    """
    if isinstance(a, dict) and isinstance(b, dict):
        count = 0
        for key, value in a.items():
            where = f"{place}.{key}" if place else str(key)
            if VARYING.fullmatch(str(key)):
                continue
            if key == "sha256" and isinstance(value, dict):  # of files, which are compared by what is in them
                value, b = dict.fromkeys(value), b | {key: dict.fromkeys(b.get(key, ()))}
            if key in b:
                count += compare_trees(result, value, b[key], where, free)
            else:
                result.differences[where] = f"{short(value)} -> missing"
        for key in b.keys() - a.keys():
            where = f"{place}.{key}" if place else str(key)
            if free:
                result.additions.append(where)
            else:
                result.differences[where] = f"missing -> {short(b[key])}"
        return count
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        if len(a) != len(b):
            result.differences[place] = f"{len(a)} -> {len(b)} entries"
            return 0
        pairs = enumerate(zip(a, b, strict=True))
        return sum(compare_trees(result, one, other, f"{place}[{index}]", free) for index, (one, other) in pairs)
    if not same(a, b):
        result.differences[place] = said(a, b)
    return 1


def compare_json(result, a, b):
    count = compare_trees(result, json.loads(a.read_text()), json.loads(b.read_text()))
    result.size = f"{count} values"


def compare_json_lines(result, a, b):
    one, other = ([json.loads(line) for line in file.read_text().splitlines()] for file in (a, b))
    count = compare_trees(result, one, other, free=False)
    result.size = f"{len(one)} lines, {count} values"


def compare_yaml(result, a, b):
    result.size = f"{compare_trees(result, yaml.safe_load(a.read_text()), yaml.safe_load(b.read_text()))} values"


def compare_tensors(result, a, b):
    count = compare_trees(result, safetensors.torch.load_file(a), safetensors.torch.load_file(b), free=False)
    result.size = f"{count} tensors"


def compare_state(result, a, b):
    one, other = (torch.load(file, weights_only=True) for file in (a, b))
    result.size = f"{compare_trees(result, one, other)} values of the trainer"


def compare_parquet(result, a, b):
    one, other = (pyarrow.parquet.read_table(file) for file in (a, b))
    result.size = f"{one.num_rows} rows, {one.num_columns} columns"
    if one.column_names != other.column_names:
        result.differences["columns"] = f"{one.column_names} -> {other.column_names}"
    for name in one.column_names:
        if name not in other.column_names:
            continue
        if (types := (one.schema.field(name).type, other.schema.field(name).type))[0] != types[1]:
            result.differences[f"{name} (type)"] = f"{types[0]} -> {types[1]}"
        compare_rows(result, name, one[name].to_pylist(), other[name].to_pylist())


def compare_csv(result, a, b):
    one, other = (list(csv.DictReader(file.open(newline=""))) for file in (a, b))
    result.size = f"{len(one)} rows"
    names = [list(rows[0]) if rows else file.read_text().split(",") for rows, file in ((one, a), (other, b))]
    if names[0] != names[1]:
        result.differences["columns"] = f"{names[0]} -> {names[1]}"
    for name in names[0]:
        if name in names[1] and not VARYING.fullmatch(name):
            compare_rows(result, name, [row.get(name) for row in one], [row.get(name) for row in other])


def compare_rows(result, name, one, other):
    """Compare a column, and say in one line how many of its cells differ."""
    if len(one) != len(other):
        result.differences[name] = f"{len(one)} -> {len(other)} rows"
        return
    cells = Result(name)
    compare_trees(cells, one, other, free=False)
    if cells.differences:
        rows = {re.match(r"\[(\d+)\]", place)[1] for place in cells.differences}
        result.differences[name] = f"{len(rows)} of {len(one)} rows, such as {next(iter(cells.differences.items()))}"


def compare_text(result, a, b):
    one, other = (neutral(file.read_text()).splitlines() for file in (a, b))
    result.size = f"{len(one)} lines"
    compare_rows(result, "text", one, other)


def compare_bytes(result, a, b):
    result.size = f"{a.stat().st_size} bytes"
    if a.read_bytes() != b.read_bytes():
        result.differences["bytes"] = "differ"


def neutral(text):
    """Return a text without moments, durations and memory, and without how columns are aligned."""
    return ALIGNED.sub(lambda line: line[0].replace(":", "-"), COST.sub("<cost>", MOMENT.sub("<moment>", text)))


BY_SUFFIX = {
    ".json": compare_json,
    ".jsonl": compare_json_lines,
    ".yaml": compare_yaml,
    ".safetensors": compare_tensors,
    ".pt": compare_state,
    ".parquet": compare_parquet,
    ".csv": compare_csv,
    ".md": compare_text,
    ".bin": compare_bytes,
}


def files_below(folder):
    """Return the files below a folder by a path in which no digits of a configuration stand."""
    found = {}
    for file in sorted(folder.rglob("*")):
        path = file.relative_to(folder)
        if file.is_file() and path.parts[0] not in OWN and path.suffix not in (".lock", ".log") and path.name != "lock":
            found[HEX.sub("-HEX", path.as_posix())] = file
    return found


def folder_names(folder):
    """Return the folders whose names hold digits of a configuration, and those of prompt caches."""
    folders = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_dir()]
    key = re.compile(r".*/prompts/[0-9a-f]{16}")
    return {path for path in folders if HEX.search(path.rpartition("/")[2]) or key.fullmatch(path)}


def compare_folders(reference, other):
    """Yield a result for the names of folders, and one for every file that the reference left.

    Args:
        reference: What the reference left.
        other: What the other left.
    """
    names, others = folder_names(reference), folder_names(other)
    missing = dict.fromkeys(sorted(names - others), "missing")
    yield Result("names of folders", f"{len(names)} names", missing, sorted(others - names))
    before, after = files_below(reference), files_below(other)
    for path, file in before.items():
        result = Result(path)
        comparison = BY_SUFFIX.get(file.suffix)
        if path not in after:
            result.differences["file"] = "missing"
        elif comparison is None:
            if file.suffix not in UNSEEN:
                result.differences["file"] = f"no comparison for {file.suffix!r}"
            result.size = "there"
        else:
            comparison(result, file, after[path])
        yield result
    if added := sorted(after.keys() - before.keys()):
        yield Result("files", additions=added)
