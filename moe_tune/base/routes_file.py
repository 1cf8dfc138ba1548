"""Reading files of routes: parquet, one row per slot, or npz, one array per column."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from moe_tune.base.errors import DataError
from moe_tune.base.routes import ABOUT, HINT, SCHEMA, UNUSED, Routes, Whole, checked, require_in


def read_routes(path: str | Path) -> Routes:
    """Return the routes of a file.

    Columns of parquet: ``id`` of the question, ``token`` its position from 0, ``token_id``, ``layer``, ``slot`` from 0,
    ``expert``, and ``weight``, which may be left out. Arrays of npz: ``id``, ``token`` and ``token_id``, (N,);
    ``layer``, (L,); ``expert`` and perhaps ``weight``, (N, L, K); perhaps ``num_experts`` and ``top_k``. An expert of
    -1 is a slot not in use.

    Raises:
        DataError: There is no such file, something is missing or twice in it, or experts are out of range.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"expected a file of routes but there is no {path} (routes). Hint: {HINT}")
    try:
        return _read_npz(path) if path.suffix == ".npz" else _read_parquet(path)
    except (pa.ArrowInvalid, ValueError, KeyError, OSError) as fault:
        said = " ".join(str(fault).split())
        raise DataError(f"expected a file of routes but {path} is none: {said} (routes). Hint: {HINT}") from fault


def _read_npz(path: Path) -> Routes:
    with np.load(path, allow_pickle=False) as kept:
        given = {name: kept[name] for name in kept.files}
    expert_NLK = given["expert"]
    require_in(expert_NLK.ndim == 3, path, "experts by token, layer and slot", f"an array of shape {expert_NLK.shape}")
    code_N, ids = _codes(given["id"])
    place_N, layer_L = given["token"].astype(np.int64), given["layer"].astype(np.int64)
    order_N, order_L = np.lexsort([place_N, code_N]), np.argsort(layer_L)
    sizes: dict[str, Any] = {name: int(given[name]) for name in ("num_experts", "top_k") if name in given}
    weight_NLK = given["weight"][order_N][:, order_L].astype(np.float32) if "weight" in given else None
    return checked(
        Routes(
            str(path),
            ids,
            _first(path, code_N[order_N], place_N[order_N], len(ids)),
            given["token_id"].astype(np.int64)[order_N],
            layer_L[order_L].tolist(),
            _small(path, expert_NLK)[order_N][:, order_L],
            weight_NLK,
            **sizes,
        )
    )


def _read_parquet(path: Path) -> Routes:
    table = pq.read_table(path)
    about = json.loads((table.schema.metadata or {}).get(ABOUT, b"{}"))
    names = [name for name in SCHEMA.names if name != "weight" or name in table.column_names]
    given = {name: table.column(name) for name in names}
    code_R, ids = _codes(given.pop("id").to_pandas().astype(str).to_numpy())
    row = {name: column.to_numpy() for name, column in given.items()}
    place_R = row["token"].astype(np.int64)
    width = int(place_R.max()) + 1 if len(place_R) else 1
    key_N, first_N, back_R = np.unique(code_R * width + place_R, return_index=True, return_inverse=True)
    layers, layer_R = np.unique(row["layer"], return_inverse=True)
    shape = (len(key_N), len(layers), int(row["slot"].max()) + 1 if len(key_N) else 0)
    where = (back_R, layer_R, _small(path, row["slot"], lowest=0))
    experts_NLK = np.full(shape, UNUSED, dtype=np.int16)
    experts_NLK[where] = _small(path, row["expert"])
    there = np.zeros(shape, dtype=np.bool_)
    there[where] = True
    require_in(int(there.sum()) == len(back_R), path, "each slot of a token once", "one twice")
    require_in(bool(there.any(-1).all()), path, "every token in every layer", "some that are missing")
    weights_NLK = None
    if "weight" in row:
        weights_NLK = np.zeros(shape, dtype=np.float32)
        weights_NLK[where] = row["weight"]
    token_N = row["token_id"].astype(np.int64)[first_N]
    same = bool((token_N[back_R] == row["token_id"]).all())
    require_in(same, path, "one token id for each token", "several")
    first_Q = _first(path, key_N // width, key_N % width, len(ids))
    sizes = {name: about.get(name) for name in ("num_experts", "top_k", "fingerprint")}
    return checked(Routes(str(path), ids, first_Q, token_N, layers.tolist(), experts_NLK, weights_NLK, **sizes))


def _codes(id_N: NDArray[Any]) -> tuple[Whole, list[str]]:
    """Return each row's question by number, and the ids in the order of those numbers."""
    ids, code_N = np.unique(id_N.astype(str), return_inverse=True)
    return code_N.astype(np.int64), ids.tolist()


def _first(path: Path, code_N: Whole, place_N: Whole, questions: int) -> Whole:
    """Return where each question begins, of tokens sorted by question and place; all of them have to be there."""
    first_Q = np.concatenate([[0], np.cumsum(np.bincount(code_N, minlength=questions))]).astype(np.int64)
    whole = bool((place_N == np.arange(len(place_N)) - first_Q[code_N]).all())
    require_in(whole, path, "every token of a question, from 0", "some that are missing or twice")
    return first_Q


def _small(path: Path, numbers: NDArray[Any], lowest: int = UNUSED) -> NDArray[np.int16]:
    """Return experts or slots in two bytes each; whole numbers from the lowest there may be."""
    require_in(numbers.size > 0, path, "routes", "none")
    low, high, most = int(numbers.min()), int(numbers.max()), np.iinfo(np.int16).max
    whole = numbers.dtype.kind in "iu" and lowest <= low and high < most
    require_in(whole, path, f"whole numbers of {lowest} to {most - 1}", f"{numbers.dtype}, {low} to {high}")
    return numbers.astype(np.int16)
