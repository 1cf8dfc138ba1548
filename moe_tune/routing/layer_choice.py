"""Which layers get a router head: the setting ``model.layers``."""

from moe_tune.base.errors import ConfigError


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
        if not layers.startswith("last-") or not count.isdecimal() or int(count) < 1:
            raise ConfigError(f"expected all, last-N or a list but got {layers!r} (model.layers). Hint: last-5.")
        # A model with fewer MoE layers than asked gives all it has: last-5 then means every layer.
        return tuple(available[-int(count) :])
    unknown = sorted(set(layers) - set(available))
    if unknown or not layers or len(set(layers)) != len(layers):
        raise ConfigError(
            f"expected distinct MoE layers of {available} but got {layers} (model.layers). Hint: all, or last-5."
        )
    return tuple(sorted(layers))
