"""Streams that are closed, or that cannot say a character, end nothing."""

import subprocess
import sys

import pytest

SAYS = """
import sys
from moe_tune.base.streams import mend_streams
mend_streams()
print("\u00e9\u4f60")
open({!r}, "w").write(sys.stdout.encoding)
"""


@pytest.mark.parametrize("closed", ["", "<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_printing_goes_on_and_no_file_gets_the_number_of_a_stream(tmp_path, closed, encoding):
    file = tmp_path / "file"
    command = f'PYTHONIOENCODING={encoding} "$0" -c "$1" {closed}'
    ended = subprocess.run(
        ["bash", "-c", command, sys.executable, SAYS.format(str(file))], capture_output=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert file.read_text() in (encoding, "utf-8")
