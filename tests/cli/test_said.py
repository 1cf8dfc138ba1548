"""What verbs say: no secret, and a reader that has gone is no fault of theirs."""

import pytest

from moe_tune.cli.main import main
from moe_tune.reports.console import PlainConsole

TOKEN = "hf_" + "abcdefghijklmnopqrstuvwxyz12"


@pytest.mark.parametrize(
    "content",
    [
        "data: {{source: NanoQuiz, batch_size: {}}}\n",
        "model: {{head: {{class_path: {}.X}}}}\ndata: {{source: NanoQuiz}}\n",
        "{0}: 1\n{0}: 2\n",
        "data: [{}\n",
    ],
)
def test_check_says_no_secret_of_a_file(content, tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text(content.format(TOKEN))
    assert main(["check", str(file)]) in (2, 4)
    said = "".join(capsys.readouterr())
    assert "expected" in said
    assert TOKEN not in said


def test_a_reader_that_has_gone_ends_a_console_as_it_ends_print():
    class Gone:
        encoding = "utf-8"

        def write(self, _):
            raise BrokenPipeError

        def flush(self):
            pass

    with pytest.raises(BrokenPipeError):
        PlainConsole(file=Gone()).print("some [red]words[/red]")
