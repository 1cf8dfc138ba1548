"""The colours of pages and figures by name, in a light and a dark form."""

COLOURS: dict[str, tuple[str, str]] = {
    "page": ("#fbfbf9", "#16171a"),
    "card": ("#ffffff", "#1e1f23"),
    "ink": ("#1c1d1f", "#ececea"),
    "muted": ("#63666b", "#a3a5aa"),
    "grid": ("#dcdcd6", "#3a3c42"),
    "band": ("#eeeee9", "#292b30"),
    "good": ("#0a6b2d", "#6fcf8e"),
    "bad": ("#b3261e", "#ff8a80"),
    "even": ("#1b5e8c", "#7fbcec"),
    "open": ("#7a5b00", "#e3b84f"),
    "flag": ("#cf3a39", "#ff8a80"),
    "never": ("#f0dccb", "#47322a"),
    "few": ("#b8b8b8", "#5a5d64"),
    "seq-0": ("#dcebfb", "#22303f"),
    "seq-1": ("#a3c9f3", "#24507f"),
    "seq-2": ("#5b9ce6", "#3a80cc"),
    "seq-3": ("#2467b8", "#7db4f2"),
    "seq-4": ("#0d3467", "#dcebff"),
    "low": ("#b9501c", "#f08a52"),
    "middle": ("#e3e1d8", "#3a3c42"),
    "high": ("#0e6b70", "#45c4c2"),
    "series-1": ("#2a78d6", "#4b96ee"),
    "series-2": ("#d9551f", "#ee7b4a"),
    "series-3": ("#14905f", "#2fb985"),
    "series-4": ("#b97d00", "#d69a1f"),
    "series-5": ("#c94f80", "#e2789f"),
    "series-6": ("#2e7d12", "#6db84e"),
    "series-7": ("#4a3aa7", "#9b90f0"),
    "series-8": ("#cf3a39", "#ec6f6d"),
}
LIGHT = {name: light for name, (light, _) in COLOURS.items()}
"""What is drawn on paper and as PNG."""
DARK = {name: dark for name, (_, dark) in COLOURS.items()}
SERIES = tuple(name for name in COLOURS if name.startswith("series"))

Stops = tuple[tuple[float, str], ...]
"""A colour scale: places from 0 to 1 and the colour at each."""
ROOT_STOPS: Stops = tuple(((place / 4) ** 2, f"seq-{place}") for place in range(5))
"""By the root of the value: what is rare stays visible beside what is frequent."""
EVEN_STOPS: Stops = tuple((place / 3, f"seq-{place + 1}") for place in range(4))
TWO_SIDED_STOPS: Stops = ((0.0, "low"), (0.5, "middle"), (1.0, "high"))


def variables(colours: dict[str, str]) -> str:
    """Return colours as the declarations of CSS variables."""
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())
