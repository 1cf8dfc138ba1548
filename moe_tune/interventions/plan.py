"""What is done to a model: to which experts of which layers, and to which others instead, for reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from moe_tune.base.errors import ConfigError, require
from moe_tune.stats.ratios import Floats

Kind = Literal["mask", "drop", "mean", "swap"]
"""Never chosen; weighed with zero; its output replaced by its mean; forced in."""
DRAWS = 20
"""Experts, or sets, of like usage that one is held against."""
Members = tuple[tuple[int, tuple[int, ...]], ...]
"""Layers and the experts of each, both ascending."""


@dataclass(frozen=True, slots=True)
class Intervention:
    """What is done at once.

    Args:
        kind: What happens to the experts.
        members: Which experts of which layers.
    """

    kind: Kind
    members: Members

    @property
    def start(self) -> int:
        """The lowest layer that it changes."""
        return self.members[0][0]

    @property
    def size(self) -> int:
        """How many experts it is about."""
        return sum(len(experts) for _, experts in self.members)

    def singles(self) -> list["Intervention"]:
        """Return the same done to each of its experts alone."""
        return [single(self.kind, layer, expert) for layer, experts in self.members for expert in experts]


def single(kind: Kind, layer: int, expert: int) -> Intervention:
    """Return an intervention on one expert."""
    return Intervention(kind, ((layer, (expert,)),))


def members_of(experts: Mapping[int, Sequence[int]]) -> Members:
    """Return experts by layer in order.

    Example:
        >>> members_of({3: [5, 2], 1: [7]})
        ((1, (7,)), (3, (2, 5)))
    """
    return tuple((layer, tuple(sorted(experts[layer]))) for layer in sorted(experts) if experts[layer])


def read_set(text: str) -> tuple[str, Members]:
    """Return name and members of a set as a command line gives it.

    Raises:
        ConfigError: It is not written so, or an expert is named twice.

    Example:
        >>> read_set("pair=3:5,2;4:1")
        ('pair', ((3, (2, 5)), (4, (1,))))
    """
    name, _, rest = text.partition("=")
    experts: dict[int, list[int]] = {}
    try:
        for part in rest.split(";"):
            layer, _, some = part.partition(":")
            experts.setdefault(int(layer), []).extend(int(one) for one in some.split(","))
    except ValueError:
        experts = {}
    every = [(layer, one) for layer, some in experts.items() for one in some]
    if not name or not every or len(set(every)) < len(every):
        raise ConfigError(
            f"expected a name, layers and different experts but got {text!r} (--sets). Hint: --sets 'pair=3:5,2;4:1'."
        )
    return name, members_of(experts)


def read_sets(texts: Sequence[str]) -> dict[str, Members]:
    """Return sets by name as a command line gives them.

    Raises:
        ConfigError: One is not written so, or two have one name.

    Example:
        >>> read_sets(["pair=3:5,2", "one=4:1"])
        {'pair': ((3, (2, 5)),), 'one': ((4, (1,)),)}
    """
    given = [read_set(text) for text in texts]
    names = [name for name, _ in given]
    require(len(set(names)) == len(names), "a name for each set", names, "--sets", "name each once.")
    return dict(given)


def usage_matched(usage_E: Floats, members: Sequence[int], draws: int = DRAWS, seed: int = 0) -> list[tuple[int, ...]]:
    """Return sets of other experts of the same layer whose usage is like that of the members, all different.

    Each member is exchanged for an expert drawn at random from the half of the layer that is nearest to it in usage
    (for a single member from the nearest ``draws``, where that is more), ties towards the lower index, without the
    members and those already drawn. There are fewer sets than asked for where the layer has no more.

    Args:
        usage_E: How often each expert is used.
        members: Which experts are exchanged.
        draws: How many sets.
        seed: Of the draws: the same seed, the same sets.

    Example:
        >>> usage_matched(np.array([0.5, 0.4, 0.1, 0.1]), [2], draws=2)
        [(1,), (3,)]
    """
    draw, found = np.random.default_rng([seed, *members]), dict[tuple[int, ...], None]()  # in the order of drawing
    others = [one for one in range(len(usage_E)) if one not in members]
    near = max(len(usage_E) // 2, min(len(others), draws if len(members) == 1 else 0))
    if len(others) < len(members):
        return []
    for _ in range(20 * draws):
        if len(found) == draws:
            break
        taken: list[int] = []
        for member in members:
            left = [one for one in others if one not in taken]
            left.sort(key=lambda one: (abs(usage_E[one] - usage_E[member]), one))
            taken.append(int(draw.choice(left[:near])))
        found[tuple(sorted(taken))] = None
    return list(found)


def reference_draws(one: Intervention, usage: Mapping[int, Floats]) -> list[Intervention]:
    """Return the same done to other experts of like usage: what an expert, or a set, is held against."""
    by_layer = [[(layer, some) for some in usage_matched(usage[layer], experts)] for layer, experts in one.members]
    return [Intervention(one.kind, tuple(drawn)) for drawn in zip(*by_layer, strict=False)]


def refuse_unknown(one: Intervention, layers: Sequence[int], experts: int) -> None:
    """Refuse layers and experts that the model has not.

    Raises:
        ConfigError: There is one, or a set is to be forced in.
    """
    told = [layer for layer, _ in one.members]
    require(set(told) <= set(layers), f"layers with experts, {list(layers)},", told, "ablate", "leave the others out.")
    named = [expert for _, some in one.members for expert in some]
    there = all(0 <= expert < experts for expert in named)
    require(there, f"experts from 0 to {experts - 1}", named, "ablate", "leave the others out.")
    forced = one.kind != "swap" or one.size == 1
    require(forced, "one expert to be forced in", named, "--sets", "sets can be masked, dropped or replaced by means.")
