"""The verb ``fit``, and how Lightning's other verbs are run."""

from collections.abc import Callable

from moe_tune.base.uncollected import uncollected


def lightning_verb(verb: str) -> Callable[[list[str], dict[str, str]], int]:
    """Return what runs one of Lightning's verbs; for all but ``fit`` a first word may be a run or its bare name."""

    def main(argv: list[str], plugins: dict[str, str]) -> int:
        with uncollected():
            from moe_tune.settings.passed_over import tell_passed_over
            from moe_tune.settings.running import run

        tell_passed_over(argv)
        named = verb != "fit" and bool(argv) and not argv[0].startswith("-")
        ran = run([verb, *(_of_run(verb, argv) if named else argv)], plugins)
        if ran.before:
            print(f"already complete: {ran.path}. Hint: --fresh true runs it again.")
        return 0

    return main


def _of_run(verb: str, argv: list[str]) -> list[str]:
    from moe_tune.cli.named_run import named_checkpoint

    return ["--ckpt_path", str(named_checkpoint(verb, argv)), *argv[1:]]


main = lightning_verb("fit")
