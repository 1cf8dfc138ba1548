"""Which experts served each token of some questions, and the file that it is written to."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from moe_tune.base.errors import DataError
from moe_tune.base.published import published

UNUSED = -1
"""Stands in a slot that no expert has."""
ABOUT = b"moe_tune"
"""What parquet files keep their sizes under, as JSON."""
SCHEMA = pa.schema(
    {
        "id": pa.dictionary(pa.int32(), pa.string()),
        "token": pa.int32(),
        "token_id": pa.int32(),
        "layer": pa.int16(),
        "slot": pa.int16(),
        "expert": pa.int16(),
        "weight": pa.float32(),
    }
)
HINT = "predict --routes FILE writes such a file."
Whole = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Routes:
    """Which experts served each token of some questions, all of whose tokens are there.

    Args:
        path: The file.
        ids: Id of each question.
        first_Q: Where the tokens of each question begin, and at last how many there are in all.
        token_N: The token ids, question by question.
        layers: Layers of the model, ascending.
        experts_NLK: The experts, best first, ``UNUSED`` where there is none.
        weights_NLK: Their weights; ``None`` where the file has none.
        num_experts: Experts of a layer, E; ``None`` where the file does not say.
        top_k: Slots of the model, K; ``None`` where the file does not say.
        fingerprint: Of the base model; ``None`` where the file does not say.
    """

    path: str
    ids: list[str]
    first_Q: Whole
    token_N: Whole
    layers: list[int]
    experts_NLK: NDArray[np.int16]
    weights_NLK: NDArray[np.float32] | None = None
    num_experts: int | None = None
    top_k: int | None = None
    fingerprint: str | None = None

    def __deepcopy__(self, memo: object) -> "Routes":
        return self  # large, and never changed


@contextmanager
def routes_writer(target: Path, about: Mapping[str, Any]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Give a function that appends columns to a parquet file, which is there once the context has ended well.

    Args:
        target: The file.
        about: ``num_experts`` and ``top_k`` of the model, and what else there is to say.
    """
    schema = SCHEMA.with_metadata({ABOUT: json.dumps(dict(about))})
    with published(target) as draft, pq.ParquetWriter(draft, schema) as writer:
        yield lambda columns: writer.write_table(
            pa.table({**columns, "id": pa.array(columns["id"]).dictionary_encode()}, schema=schema)
        )


def checked(routes: Routes) -> Routes:
    """Return routes whose experts are in range and different.

    Raises:
        DataError: They are not.
    """
    experts_NLK, path = routes.experts_NLK, Path(routes.path)
    if routes.num_experts is not None:
        most, high = routes.num_experts, int(experts_NLK.max())
        require_in(high < most, path, f"experts of 0 to {most - 1}", f"expert {high}")
    sorted_NLK = np.sort(experts_NLK, axis=-1)
    twice = (sorted_NLK[..., 1:] == sorted_NLK[..., :-1]) & (sorted_NLK[..., 1:] != UNUSED)
    require_in(not twice.any(), path, "different experts for a token", "one twice")
    return routes


def require_in(holds: bool, path: Path, expected: str, came: str) -> None:
    """Refuse a file of routes in which something does not hold.

    Raises:
        DataError: It does not.
    """
    if not holds:
        raise DataError(f"expected {expected} but got {came} ({path}). Hint: {HINT}")
