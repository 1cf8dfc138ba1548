"""Which layers get a router head: the setting ``model.layers``."""

from moe_tune.base.errors import require


def refuse_layers(layers: str | list[int]) -> None:
    """Refuse a setting that names layers of no model.

    Raises:
        ConfigError: It is not understood, or a layer is below 0 or repeated.
    """
    if isinstance(layers, str):
        count = layers.removeprefix("last-")
        known = layers == "all" or (layers.startswith("last-") and count.isdecimal() and int(count) >= 1)
        require(known, "all, last-N or a list", layers, "model.layers", "last-5.")
        return
    known = bool(layers) and min(layers) >= 0 and len(set(layers)) == len(layers)
    require(known, "one or more different layers from 0", layers, "model.layers", "all, or last-5.")


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
        refuse_layers(layers)
        count = layers.removeprefix("last-")
        # A model with fewer MoE layers than asked gives all it has: last-5 then means every layer.
        return tuple(available[-int(count) :])
    known = bool(layers) and set(layers) <= set(available) and len(set(layers)) == len(layers)
    require(known, f"distinct MoE layers of {available}", layers, "model.layers", "all, or last-5.")
    return tuple(sorted(layers))
