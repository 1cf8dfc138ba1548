"""Two router cards compared: what is set otherwise, how far their tensors are apart, and what each run recorded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from moe_tune.export.card import RouterCard, same_bits
from moe_tune.export.model_card import ends
from moe_tune.reports.table import Cell, Column, Table, numbers, words

IN_ONE = "-"
"""Printed where one of two cards has nothing."""


@dataclass(frozen=True, slots=True)
class LayerDistance:
    """How far the tensors of a layer are apart.

    Args:
        layer: The layer, ``adapter`` for a LoRA.
        tensors: How many tensors both have.
        relative: ``|A - B| / |A|`` over all of them, Frobenius norm; ``None`` where shapes or names differ.
        largest: The largest difference of a number.
        unmatched: Names that only one has, or whose shapes differ.
    """

    layer: str
    tensors: int
    relative: float | None
    largest: float | None
    unmatched: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CardDifference:
    """What tells two cards apart.

    Args:
        names: Their names.
        settings: Settings that differ, by dotted key: the value of each.
        layers: Distances of the layers whose tensors differ.
        metrics: The splits of either, with the metrics of each or ``None``, where they differ.
    """

    names: tuple[str, str]
    settings: dict[str, tuple[Any, Any]]
    layers: list[LayerDistance]
    metrics: dict[str, tuple[dict[str, Any] | None, dict[str, Any] | None]]

    @property
    def is_empty(self) -> bool:
        """Whether they are the same."""
        return not (self.settings or self.layers or self.metrics)

    def tables(self) -> list[Table]:
        """Return a table each of settings, tensors and metrics, those that have rows."""
        tables = []
        if self.settings:
            keys = list(self.settings)
            sides = [words(name, [self.settings[key][at] for key in keys]) for at, name in enumerate(self.names)]
            tables.append(Table([words("setting", keys), *sides], title="settings that differ"))
        if self.layers:
            columns = [
                words("layer", [one.layer for one in self.layers]),
                numbers("tensors", [one.tensors for one in self.layers]),
                numbers("relative distance", [one.relative for one in self.layers], ".3g"),
                numbers("largest difference", [one.largest for one in self.layers], ".3g"),
                words("in one alone, or of another shape", [", ".join(one.unmatched) for one in self.layers]),
            ]
            tables.append(Table(columns, "Relative distance: |A - B| / |A|, Frobenius norm.", "tensors that differ"))
        if self.metrics:
            columns = [words("split", list(self.metrics))]
            for at, name in enumerate(self.names):
                found = [pair[at] for pair in self.metrics.values()]
                columns.append(numbers(f"{name}: n", [None if one is None else one["n"] for one in found]))
                columns.append(Column("points", [_gain(one) for one in found]))
            note = "Points: difference from the pretrained router, 95 % interval, as each run recorded it; not a test "
            tables.append(Table(columns, f"{note}of one against the other: compare does that.", "metrics"))
        return tables


def difference(first: RouterCard, second: RouterCard) -> CardDifference:
    """Return what tells two cards apart."""
    flat = [_flat(card.settings) for card in (first, second)]
    keys = sorted(flat[0].keys() | flat[1].keys())
    pairs = {key: (flat[0].get(key, IN_ONE), flat[1].get(key, IN_ONE)) for key in keys}
    by_split = [{one["split"]: one for one in card.metrics} for card in (first, second)]
    splits = {split: (by_split[0].get(split), by_split[1].get(split)) for split in {**by_split[0], **by_split[1]}}
    names = tuple(str(card.settings["name"]) for card in (first, second))
    return CardDifference(
        (names[0], names[1]) if names[0] != names[1] else (f"{names[0]} (A)", f"{names[1]} (B)"),
        {key: pair for key, pair in pairs.items() if pair[0] != pair[1]},
        _layers(first.tensors, second.tensors),
        {split: pair for split, pair in splits.items() if pair[0] != pair[1]},
    )


def _layers(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> list[LayerDistance]:
    """Return the distances of the layers whose tensors are not the same to the last bit."""
    found = []
    of = {name: name.split(".")[1] if name.startswith("layers.") else "adapter" for name in {**first, **second}}
    for layer in sorted(set(of.values()), key=lambda one: (not one.isdigit(), int(one) if one.isdigit() else 0)):
        names = sorted(name for name, at in of.items() if at == layer)
        both = [name for name in names if name in first and name in second and first[name].shape == second[name].shape]
        unmatched = tuple(name.removeprefix(f"layers.{layer}.") for name in names if name not in both)
        if not unmatched and all(same_bits(first[name], second[name]) for name in both):
            continue
        a_N, b_N = (
            torch.cat([torch.zeros(0), *(side[name].flatten() for name in both)]).double() for side in (first, second)
        )
        apart_N = torch.where(a_N == b_N, 0.0, a_N - b_N)  # a threshold may be infinite in both
        size = float(a_N.norm())
        relative = float(apart_N.norm()) / size if size and not unmatched else None
        largest = float(apart_N.abs().max()) if len(apart_N) else None
        found.append(LayerDistance(layer, len(both), relative, largest, unmatched))
    return found


def _gain(metric: dict[str, Any] | None) -> Cell:
    if metric is None:
        return Cell(IN_ONE)
    return Cell(f"{100 * metric['difference']:+.1f} {ends(metric)}", metric["difference"])


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found
