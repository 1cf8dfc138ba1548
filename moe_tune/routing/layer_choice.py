"""Which layers get a router head: the setting ``model.layers``."""

from moe_tune.base.errors import require


def choose_layers(layers: str | list[int], available: list[int]) -> tuple[int, ...]:
    """Return the layer indices a setting names.

    Raises:
        ConfigError: A layer does not exist, or the setting is not understood.

    Example:
        >>> choose_layers("last-2", [0, 1, 2, 3])
        (2, 3)
    """
    if layers == "all":
        return tuple(available)
    if isinstance(layers, str):
        count = layers.removeprefix("last-")
        known = layers.startswith("last-") and count.isdecimal() and int(count) >= 1
        require(known, "all, last-N or a list", layers, "model.layers", "last-5.")
        # A model with fewer MoE layers than asked gives all it has: last-5 then means every layer.
        return tuple(available[-int(count) :])
    known = bool(layers) and set(layers) <= set(available) and len(set(layers)) == len(layers)
    require(known, f"distinct MoE layers of {available}", layers, "model.layers", "all, or last-5.")
    return tuple(sorted(layers))
