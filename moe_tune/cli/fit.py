"""The verb ``fit``, and how Lightning's other verbs are run."""

from collections.abc import Callable


def lightning_verb(verb: str) -> Callable[[list[str], dict[str, str]], int]:
    """Return what runs one of Lightning's verbs."""

    def main(argv: list[str], plugins: dict[str, str]) -> int:
        from moe_tune.settings.running import run

        ran = run([verb, *argv], plugins)
        if ran.before:
            print(f"already complete: {ran.path}. Hint: --fresh true runs it again.")
        return 0

    return main


main = lightning_verb("fit")
