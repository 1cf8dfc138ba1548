"""ARC's columns."""

from moe_tune.data.formats.mmlu import Mmlu


class Arc(Mmlu):
    """``question``, ``choices`` with ``text`` and ``label``, and ``answerKey``: one of the labels, letters or digits.

    Reference:
        Clark et al. 2018, Think you have Solved Question Answering?, arXiv 1803.05457.
    """

    name = "ARC"
    columns = ("question", "choices", "answerkey")
