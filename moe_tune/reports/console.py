"""The console that verbs print to: words in brackets stay as they are, and a reader that has gone is told as such."""

from typing import Any

from rich.console import Console


class PlainConsole(Console):
    """rich's console without markup.

    Args:
        options: Of ``rich.console.Console``.

    Raises:
        BrokenPipeError: Nobody reads any more; rich itself would end the program as if that were a fault.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, **options)

    def on_broken_pipe(self) -> None:
        """Let the program's boundary end it."""
        raise BrokenPipeError
