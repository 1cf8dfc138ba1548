"""Comparing what two versions of the program left in a folder: by value, equal bits, file by file."""

import csv
import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import pyarrow.parquet
import safetensors.torch
import torch
import yaml

VARYING = re.compile(r"(.*_)?(time|seconds|memory|memory_gib|date|created|started|finished|checksum)")
"""Keys of what is another one in every run."""
HEX = re.compile(r"-[0-9a-f]{8}(?=[/-]|$)")
"""The digits of a configuration in a folder's name."""
SAID = re.compile(r"(-[A-Z][A-Za-z]*)-[a-z][^/]*?(?=-s\d+-([0-9a-f]{8}|HEX))")
"""What of a command stands in a run's name behind the head; it came later."""
MOMENT = re.compile(r"\d{4}-\d\d-\d\d(T[\d:.+]+)?")
COST = re.compile(r"\d+ s, at most [\d.]+ GiB|[\d.,]+ (s|seconds|GiB)\b")
ALIGNED = re.compile(r"^\|[ :|-]+\|$", re.MULTILINE)
"""The line of a Markdown table that says how its columns are aligned."""
OWN = ("configs", "complete")
"""What the comparison itself puts into a folder."""
UNSEEN = (".html", ".png")
"""Pages and figures: that they are there is compared, not what is drawn how."""
STRICT = (".jsonl", ".safetensors", ".parquet", ".csv", ".md")
"""Files that may hold nothing new."""


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


def neutral(text):
    """Return a text without moments, durations and memory, what run names say, and how columns are aligned."""
    text = SAID.sub(r"\1", COST.sub("<cost>", MOMENT.sub("<moment>", text)))
    return ALIGNED.sub(lambda line: line[0].replace(":", "-"), text)


def parquet(file):
    table = pyarrow.parquet.read_table(file)
    return {"types": {one.name: str(one.type) for one in table.schema}, **table.to_pydict()}


def comma_separated(file):
    names, *rows = csv.reader(file.open(newline=""))
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def history(file):
    """Return every key's values with their steps, whatever rows lie between."""
    found = defaultdict(list)
    for line in file.read_text().splitlines():
        row = json.loads(line)
        for key in row.keys() - {"step"}:
            found[key].append([row.get("step"), row[key]])
    return dict(found)


def lines(file):
    """Return how often each line is there, wherever it stands."""
    return dict(Counter(neutral(file.read_text()).splitlines()))


READERS = {
    ".json": lambda file: json.loads(file.read_text()),
    ".jsonl": history,
    ".yaml": lambda file: yaml.safe_load(file.read_text()),
    ".safetensors": safetensors.torch.load_file,
    ".pt": lambda file: torch.load(file, weights_only=True),
    ".parquet": parquet,
    ".csv": comma_separated,
    ".md": lines,
    ".bin": lambda file: file.read_bytes(),
}


def places(value, place=""):
    """Yield every plain value of nested mappings and lists, and its place; what varies is left out."""
    if isinstance(value, dict):
        for key, one in value.items():
            if key == "sha256" and isinstance(one, dict):  # of files, which are compared by what is in them
                one = dict.fromkeys(one)
            if not VARYING.fullmatch(str(key)):
                yield from places(one, f"{place}.{key}" if place else str(key))
    elif isinstance(value, (list, tuple)):
        yield f"{place} (entries)", len(value)
        for index, one in enumerate(value):
            yield from places(one, f"{place}[{index}]")
    else:
        yield place, SAID.sub(r"\1", value) if isinstance(value, str) else value


def same(a, b):
    """Return whether two plain values are the same to the bit; NaN equals NaN, and 0.0 does not equal -0.0."""
    if isinstance(a, float) and isinstance(b, float):
        return a.hex() == b.hex()
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and raw(a) == raw(b)
    return type(a) is type(b) and a == b


def raw(tensor):
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def short(value):
    text = f"{tuple(value.shape)} {value.dtype}" if isinstance(value, torch.Tensor) else repr(value)
    return text if len(text) < 90 else f"{text[:87]}..."


def said(a, b):
    """Return in words how two values differ."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and (a.shape, a.dtype) == (b.shape, b.dtype):
        apart = (a.double() - b.double()).abs()
        return f"{int((apart != 0).sum())} of {apart.numel()} values, at most {apart.max():.3g} apart"
    return f"{short(a)} -> {short(b)}"


def compare_files(path, file, other):
    """Return what comparing two files of a path found.

    Args:
        path: As printed.
        file: The reference's.
        other: The new one, or ``None``.
    """
    result, read = Result(path, "there"), READERS.get(file.suffix)
    if other is None:
        result.differences["file"] = "missing"
    elif read is not None:
        before, after = (dict(places(read(one))) for one in (file, other))
        result.size = f"{len(before)} values"
        for place, value in before.items():
            if place not in after:
                result.differences[place] = f"{short(value)} -> missing"
            elif not same(value, after[place]):
                result.differences[place] = said(value, after[place])
        result.additions = [place for place in after if place not in before]
        if file.suffix in STRICT:
            result.differences |= {place: f"missing -> {short(after[place])}" for place in result.additions}
            result.additions = []
    elif file.suffix not in UNSEEN:
        result.differences["file"] = f"no comparison for {file.suffix!r}"
    return result


def files_below(folder):
    """Return the files below a folder by a path in which no digits of a configuration stand."""
    found = {}
    for file in sorted(folder.rglob("*")):
        path = file.relative_to(folder)
        if file.is_file() and path.parts[0] not in OWN and path.suffix not in (".lock", ".log") and path.name != "lock":
            found[HEX.sub("-HEX", SAID.sub(r"\1", path.as_posix()))] = file
    return found


def folder_names(folder):
    """Return the folders whose names hold digits of a configuration, and those of prompt caches."""
    folders = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_dir()]
    key = re.compile(r".*/prompts/[0-9a-f]{16}")
    return {SAID.sub(r"\1", path) for path in folders if HEX.search(path.rpartition("/")[2]) or key.fullmatch(path)}


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
    yield from (compare_files(path, file, after.get(path)) for path, file in before.items())
    if added := sorted(after.keys() - before.keys()):
        yield Result("files", additions=added)
