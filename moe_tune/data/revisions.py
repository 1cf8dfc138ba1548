"""What the sources of a data module say of their content: a commit, a hash of files, a version and its seed."""

from moe_tune.data.module import QuizDataModule


def revisions(data: QuizDataModule) -> dict[str, str]:
    """Return the revision of each source, by its key below ``data``; nothing is read of a network.

    Args:
        data: A data module, whether or not anything was read of it.

    Raises:
        DataError: Files are not there.
    """
    questions = {"source": data.splits, **data.test_sources}
    beside = {**data.beside, **({} if data.text is None else {"text": data.text})}
    return {name: one.source.revision() for name, one in questions.items()} | {
        name: one.revision() for name, one in beside.items()
    }
