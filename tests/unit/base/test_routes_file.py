"""Files of routes: what is written is read again, from parquet and from npz, in any order; all else is refused."""

import numpy as np
import pandas as pd
import pytest

from moe_tune.base.errors import DataError
from moe_tune.base.routes import UNUSED, routes_writer
from moe_tune.base.routes_file import read_routes

LENGTHS = {"b": 3, "a": 2}
LAYERS = [1, 3]


@pytest.fixture
def frame():
    """Two questions of three and two tokens, two layers, three slots of which the last is not always in use."""
    draw = np.random.default_rng(0)
    rows = []
    for name, length in LENGTHS.items():
        for token in range(length):
            for layer in LAYERS:
                experts = draw.permutation(9)[: 2 + (token + layer) % 2]
                rows += [(name, token, 40 + token, layer, slot, one, 0.1) for slot, one in enumerate(experts)]
    return pd.DataFrame(rows, columns=["id", "token", "token_id", "layer", "slot", "expert", "weight"])


@pytest.fixture
def parquet(tmp_path):
    """Give a function that writes a table of routes, as parquet or as the arrays of an npz file."""

    def write(frame, kind="parquet"):
        path = tmp_path / f"routes.{kind}"
        if kind == "parquet":
            frame.to_parquet(path, index=False)
            return path
        rows = frame[["id", "token", "token_id"]].drop_duplicates()
        keys, layers = list(zip(rows["id"], rows["token"], strict=True)), sorted(set(frame["layer"]), reverse=True)
        arrays = {name: np.full((len(keys), len(layers), 3), UNUSED, dtype=kind) for name, kind in
                  (("expert", int), ("weight", float))}  # fmt: skip
        for one in frame.itertuples():
            where = keys.index((one.id, one.token)), layers.index(one.layer), one.slot
            arrays["expert"][where], arrays["weight"][where] = one.expert, one.weight
        columns = {name: rows[name].to_numpy(dtype=str if name == "id" else int) for name in rows}
        np.savez(path, **columns, **arrays, layer=np.array(layers), num_experts=9, top_k=3)
        return path

    return write


def told(routes):
    """Return what routes say, slot by slot."""
    return {
        (name, place, int(routes.token_N[first + place]), layer, slot): int(expert)
        for name, first, end in zip(routes.ids, routes.first_Q, routes.first_Q[1:], strict=False)
        for place in range(end - first)
        for at, layer in enumerate(routes.layers)
        for slot, expert in enumerate(routes.experts_NLK[first + place, at])
        if expert != UNUSED
    }


@pytest.mark.parametrize("kind", ["parquet", "npz"])
def test_what_is_written_is_read_in_whatever_order_it_stands(kind, frame, parquet):
    routes = read_routes(parquet(frame.sample(frac=1, random_state=1), kind))
    keys = frame[["id", "token", "token_id", "layer", "slot"]].itertuples(index=False, name=None)
    assert told(routes) == dict(zip(keys, frame["expert"], strict=True))
    used_NLK = routes.experts_NLK != UNUSED
    assert np.allclose(routes.weights_NLK[used_NLK], 0.1)
    assert (routes.num_experts, routes.top_k) == ((None, None) if kind == "parquet" else (9, 3))


def test_the_writer_puts_batch_after_batch_and_leaves_no_half(frame, tmp_path):
    path = tmp_path / "routes.parquet"
    with routes_writer(path, {"num_experts": 9, "top_k": 3}) as write:
        for _, part in frame.groupby("id"):
            write({name: part[name].to_numpy() for name in part})
    routes = read_routes(path)
    assert (len(told(routes)), routes.num_experts, routes.top_k) == (len(frame), 9, 3)

    def half():
        with routes_writer(tmp_path / "other.parquet", {}) as write:
            write({name: frame[name].to_numpy() for name in frame})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert [one.name for one in tmp_path.iterdir()] == ["routes.parquet"]


def test_ids_alone_are_routes(frame, parquet):
    assert read_routes(parquet(frame.drop(columns="weight"))).weights_NLK is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda frame: pd.concat([frame, frame[:1]]), "once"),
        (lambda frame: frame[frame["token"] != 1], "every token"),
        (lambda frame: frame.assign(expert=frame["expert"].clip(upper=0)), "different experts"),
        (lambda frame: frame[(frame["token"] != 1) | (frame["layer"] != 3)], "every token in every layer"),
        (lambda frame: frame.assign(expert=-2), "whole numbers"),
        (lambda frame: frame.assign(expert=40000), "whole numbers"),
        (lambda frame: frame.assign(expert=0.5), "whole numbers"),
        (lambda frame: frame.assign(slot=frame["slot"] - 1), "whole numbers of 0"),
        (lambda frame: frame.assign(token_id=np.arange(len(frame))), "one token id"),
        (lambda frame: frame.drop(columns="token_id"), "token_id"),
        (lambda frame: frame[:0], "routes"),
    ],
)
def test_what_is_no_file_of_routes_is_refused_in_one_line(change, said, frame, parquet):
    with pytest.raises(DataError, match=said) as refused:
        read_routes(parquet(change(frame)))
    assert "\n" not in str(refused.value)


def test_other_files_are_refused_in_one_line(tmp_path, frame, parquet):
    text = tmp_path / "routes.txt"
    text.write_text("none")
    for path in (tmp_path / "nowhere.parquet", text):
        with pytest.raises(DataError, match="expected a file of routes"):
            read_routes(path)
    np.savez(tmp_path / "routes.npz", expert=np.zeros((2, 3), dtype=int))
    with pytest.raises(DataError, match="by token, layer and slot"):
        read_routes(tmp_path / "routes.npz")
    given = dict(np.load(parquet(frame, "npz")))
    np.savez(tmp_path / "routes.npz", **{**given, "num_experts": 5})
    with pytest.raises(DataError, match="experts of 0 to 4"):
        read_routes(tmp_path / "routes.npz")
