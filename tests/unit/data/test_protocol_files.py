"""A protocol file of the user's own either works or is refused with the reason."""

import pytest

from moe_tune.base.errors import ConfigError
from moe_tune.data.protocol import FOLDER, load_protocol

WHOLE = (FOLDER / "lm_eval.yaml").read_text(encoding="utf-8")


def test_a_copy_of_a_shipped_protocol_is_that_protocol(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(WHOLE, encoding="utf-8")
    assert load_protocol(str(file)) == load_protocol("lm_eval")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"name: [", "YAML"),
        (b"\xff\xfe\xfa", "YAML"),
        (b"a: 1\na: 2\n", "twice"),
        (b"", "fields"),
        (b"- 1\n", "fields"),
        (b"1: x\nname: y\n", "fields"),
        (WHOLE.encode() + b"more: text\n", "fields"),
        (WHOLE.encode().replace(b"name: lm_eval", b"name: 3"), "text"),
    ],
)
def test_a_broken_file_is_refused(tmp_path, content, said):
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        load_protocol(str(file))
