"""The commit in records: dirty where files changed, but for those that are being written."""

import subprocess

import pytest

from moe_tune.base.commit import git_commit


@pytest.fixture
def repository(tmp_path):
    """Give a repository with a folder whose results are committed."""
    (tmp_path / "study" / "results").mkdir(parents=True)
    for name in ("code.py", "study/experiment.yaml", "study/results/table.md"):
        (tmp_path / name).write_text("before")
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "all"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


def test_only_what_is_being_written_may_change(repository):
    study = repository / "study"
    commit = git_commit(study)
    assert len(commit) == 40
    (study / "results" / "table.md").write_text("after")
    (study / "new.yaml").touch()
    assert git_commit(study, "results") == commit
    assert git_commit(study) == f"{commit}-dirty"
    (repository / "code.py").write_text("after")
    assert git_commit(study, "results") == f"{commit}-dirty"


def test_without_a_repository_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit(tmp_path) is None
