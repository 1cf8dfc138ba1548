"""Small quizzes for the tests of this folder."""

from moe_tune.data.source import QuestionSource, RawRow


def row(question="What is 1 + 1?", subject="sums", choices=("1", "2", "3", "4"), answer=1, **other):
    return {"question": question, "subject": subject, "choices": list(choices), "answer": answer, **other}


def rows_of(count, subjects=("sums", "maps"), start=0):
    return [row(f"Question {start + i}?", subjects[i % len(subjects)], answer=i % 4) for i in range(count)]


class ListSource(QuestionSource):
    """Rows from memory; remembers which splits were read."""

    def __init__(self, choice_counts=(4,), declared_subjects=None, known_sizes=None, **splits):
        self.choice_counts = frozenset(choice_counts)
        self.declared_subjects = None if declared_subjects is None else frozenset(declared_subjects)
        self.known_sizes = known_sizes or {}
        self.content = splits
        self.read = []

    def splits(self):
        return tuple(self.content)

    def rows(self, split):
        self.read.append(split)
        for index, values in enumerate(self.content[split]):
            yield RawRow(f"{split}[{index}]", values)
