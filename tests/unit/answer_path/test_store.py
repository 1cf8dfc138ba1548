"""The prompt cache: what is read is what was written, and no kill, race or damage ever yields anything else."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import until

from moe_tune.answer_path.store import StorePlan, cache_root, open_store
from moe_tune.answer_path.store_writer import StoreWriter
from moe_tune.base.errors import ResourceError
from moe_tune.base.locks import cache_lock
from moe_tune.models.state_shape import StateShape

KEY = "0123456789abcdef"
SHAPE = StateShape(2, 4, (0, 1), 6, 2, 3, torch.bfloat16)
FORK = multiprocessing.get_context("fork")


def plan_of(own, prefix, prefix_lengths, shape=SHAPE):
    own_Q, prefix_Q = torch.tensor(own, dtype=torch.long), torch.tensor(prefix, dtype=torch.long)
    lengths_G = torch.tensor(prefix_lengths, dtype=torch.long)
    return StorePlan(shape, own_Q, prefix_Q, lengths_G, own_Q + 100)


PLAN = plan_of([3, 0, 5, 1, 2, 2, 4, 1, 3, 6, 1], [0, -1, 1, 1, 0, -1, -1, 0, 1, 1, 0], [4, 2])


def bits(values):
    """Return a tensor's bytes, so that NaN equals NaN and -0 differs from 0."""
    return values.contiguous().flatten().view(torch.uint8).tolist()


def drawn(shape, dtype, seed):
    """Return values of random bits, all kinds of NaN included."""
    count = torch.Size(shape).numel() * dtype.itemsize
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count,), dtype=torch.uint8, generator=draw).view(dtype).view(shape)


def answer_of(plan, question):
    return drawn((1 + len(plan.shape.lower_routers), plan.shape.width), plan.shape.dtype, 3 * question)


def tokens_of(plan, length, seed):
    shape = plan.shape
    return drawn((shape.upper_layers, 2, shape.key_value_heads, length, shape.head_dim), shape.dtype, seed)


def own_of(plan, question):
    return tokens_of(plan, int(plan.own_length_Q[question]), 3 * question + 1)


def prefix_of(plan, index):
    return tokens_of(plan, int(plan.prefix_length_G[index]), 3 * index + 2)


def write_questions(writer, questions):
    """Write questions as one batch whose padding is rubbish."""
    plan, shape = writer.plan, writer.plan.shape
    own = [own_of(plan, question) for question in questions]
    longest = max(one.shape[-2] for one in own) + 1
    sizes = (shape.upper_layers, 2, len(own), shape.key_value_heads, longest, shape.head_dim)
    padded = torch.full(sizes, 7.0, dtype=shape.dtype)
    for place, one in enumerate(own):
        padded[:, :, place, :, : one.shape[-2]] = one
    answers = torch.stack([answer_of(plan, question) for question in questions])
    writer.write(questions, answers, padded, plan.own_length_Q[questions])


def write_missing(writer, batch=2, pause=lambda: None, limit=None):
    for index in writer.missing_prefixes():
        writer.write_prefix(index, prefix_of(writer.plan, index))
    missing = writer.missing_questions()[:limit]
    for start in range(0, len(missing), batch):
        write_questions(writer, missing[start : start + batch])
        pause()
        writer.commit()
        pause()


def build(folder, plan=PLAN, description=None, pause=lambda: None):
    with StoreWriter(folder, plan, description or {"split": "test"}) as writer:
        write_missing(writer, pause=pause)
        writer.publish()
    return open_store(folder)


def contents(folder):
    """Return the files that must not depend on how a build went."""
    return {name: (folder / name).read_bytes() for name in ("answers.bin", "index.safetensors", "keys_values.bin")}


def assert_states(store, plan, question_B):
    states = store.batch(question_B)
    assert states.prefix_B.tolist() == plan.prefix_Q[question_B].tolist()
    assert states.position_B.tolist() == plan.position_Q[question_B].tolist()
    assert states.length_B.tolist() == plan.own_length_Q[question_B].tolist()
    assert states.own_UVBHSC.shape[-2] == max(states.length_B.tolist(), default=0)
    for place, question in enumerate(question_B):
        length = int(plan.own_length_Q[question])
        own_UVHSC = states.own_UVBHSC[:, :, place]
        assert bits(states.answer_BXD[place]) == bits(answer_of(plan, question))
        assert bits(own_UVHSC[..., :length, :]) == bits(own_of(plan, question))
        assert not any(bits(own_UVHSC[..., length:, :])), "padding is zero"
    assert set(states.prefixes) == {int(plan.prefix_Q[question]) for question in question_B} - {-1}
    for index, value in states.prefixes.items():
        assert bits(value) == bits(prefix_of(plan, index))


@st.composite
def plans(draw):
    lengths_G = draw(st.lists(st.integers(1, 4), max_size=3))
    rows = st.tuples(st.integers(0, 5), st.integers(-1, len(lengths_G) - 1))
    own, prefix = zip(*draw(st.lists(rows, min_size=1, max_size=7)), strict=True)
    first, lower = draw(st.sampled_from([(0, ()), (1, (0,)), (2, (0, 1)), (2, (1,))]))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    return plan_of(own, prefix, lengths_G, StateShape(first, 3, lower, 5, 2, 3, dtype))


@settings(max_examples=30)
@given(plan=plans(), batch=st.integers(1, 4), data=st.data())
def test_what_is_read_is_what_was_written_in_the_order_asked(plan, batch, data):
    questions = st.lists(st.integers(0, len(plan.own_length_Q) - 1), max_size=6)
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / KEY
        with StoreWriter(folder, plan, {"split": "test"}) as writer:
            write_missing(writer, batch)
            writer.publish()
        store = open_store(folder)
        assert sum(path.stat().st_size for path in folder.glob("*.bin")) == plan.bytes == store.record["bytes"]
        for _ in range(3):
            assert_states(store, plan, data.draw(questions))


def test_prefixes_are_read_without_a_copy(tmp_path):
    store = build(tmp_path / KEY)
    once, again = store.batch([0]).prefixes[0], store.batch(torch.tensor([4, 7])).prefixes[0]
    assert once.data_ptr() == again.data_ptr()


def test_a_complete_cache_tells_what_it_is_and_leaves_nothing_beside_it(tmp_path):
    store = build(tmp_path / KEY, description={"split": "validation", "model": "Zürich"})
    assert store.description == {"split": "validation", "model": "Zürich"}
    assert store.plan.shape == SHAPE
    assert {path.name for path in store.folder.iterdir()} == {*contents(store.folder), "cache.json"}
    assert [path.name for path in tmp_path.iterdir()] == [KEY]
    os.utime(tmp_path / KEY / "cache.json", (0, 0))
    store.touch()
    assert time.time() - (tmp_path / KEY / "cache.json").stat().st_mtime < 3600
    assert open_store(tmp_path / KEY) is not None, "using a cache does not change it"


def test_a_resumed_build_asks_only_for_what_was_not_committed(tmp_path):
    with StoreWriter(tmp_path / KEY, PLAN, {}) as writer:
        writer.write_prefix(1, prefix_of(PLAN, 1))
        write_questions(writer, [2, 5])
        writer.commit()
        write_questions(writer, [0])
    with (tmp_path / f"{KEY}.building" / "done.0").open("a") as journal:
        journal.write('{"prefixes": [], "questions": [0')  # torn by a power cut
    with StoreWriter(tmp_path / KEY, PLAN, {}) as writer:
        assert writer.missing_prefixes() == [0]
        assert writer.missing_questions() == [0, 1, 3, 4, 6, 7, 8, 9, 10]
        with pytest.raises(RuntimeError, match="not written"):
            writer.publish()
        write_missing(writer)
        writer.publish()
    assert contents(tmp_path / KEY) == contents(build(tmp_path / "other" / KEY).folder)


def test_data_is_flushed_before_the_journal_that_lists_it(tmp_path, monkeypatch):
    with StoreWriter(tmp_path / KEY, PLAN, {}) as writer:
        write_questions(writer, [3])
        flushed = []
        monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(Path(os.readlink(f"/proc/self/fd/{handle}"))))
        writer.commit()
    assert [path.name for path in flushed] == ["answers.bin", "keys_values.bin", "done.0"]


def test_killed_builds_resume_to_the_files_of_an_undisturbed_one(tmp_path):
    chance, interrupted = random.Random(3), 0
    for _ in range(12):
        pauses = FORK.Semaphore(chance.randint(1, 3))
        child = FORK.Process(target=build, args=(tmp_path / KEY,), kwargs={"pause": pauses.acquire})
        child.start()
        until(lambda pauses=pauses, child=child: pauses.get_value() == 0 or not child.is_alive())
        child.kill()  # anywhere between its last pause and the next
        child.join()
        interrupted += child.exitcode == -signal.SIGKILL
    assert interrupted > 2
    store = open_store(tmp_path / KEY) or build(tmp_path / KEY)
    assert_states(store, PLAN, list(range(11)))
    assert contents(store.folder) == contents(build(tmp_path / "other" / KEY).folder)


@pytest.mark.parametrize("resumed_by", [1, 2, 3])
def test_any_number_of_processes_writes_the_same_files(tmp_path, resumed_by):
    def written_by(world_size, limit=None):
        writers = [StoreWriter(tmp_path / KEY, PLAN, {"split": "test"}, rank, world_size) for rank in range(world_size)]
        shares = [writer.missing_questions() for writer in writers]
        for writer in writers:
            write_missing(writer, limit=limit)
        return writers, shares

    writers, shares = written_by(2, limit=3)
    assert sorted(shares[0] + shares[1]) == list(range(11)), "each question once"
    for writer in writers:
        writer.__exit__()
    writers, shares = written_by(resumed_by)
    assert sum(map(len, shares)) == 11 - 6
    writers[0].publish()
    for writer in writers:
        writer.__exit__()
    assert contents(tmp_path / KEY) == contents(build(tmp_path / "other" / KEY).folder)


def built_once(folder, builders, together):
    together.wait()
    with cache_lock(folder):
        if open_store(folder) is None:
            build(folder)
            (builders / str(os.getpid())).touch()


def test_two_builders_at_once_end_with_one_correct_cache(tmp_path):
    builders = tmp_path / "builders"
    builders.mkdir()
    together = FORK.Barrier(2)
    children = [FORK.Process(target=built_once, args=(tmp_path / KEY, builders, together)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert len(list(builders.iterdir())) == 1
    assert_states(open_store(tmp_path / KEY), PLAN, list(range(11)))
    assert sorted(path.name for path in tmp_path.iterdir()) == [KEY, "builders"]


@pytest.mark.parametrize("complete", [True, False])
def test_a_complete_cache_that_came_first_stays_and_a_damaged_one_is_replaced(tmp_path, complete):
    first = build(tmp_path / "first" / KEY, description={"by": "somebody else"})
    with StoreWriter(tmp_path / KEY, PLAN, {"by": "this one"}) as writer:
        write_missing(writer)
        shutil.copytree(first.folder, tmp_path / KEY)
        if not complete:
            os.truncate(tmp_path / KEY / "answers.bin", 3)
        writer.publish()
    assert open_store(tmp_path / KEY).description["by"] == ("somebody else" if complete else "this one")
    assert sorted(path.name for path in tmp_path.iterdir()) == [KEY, "first"]


def edit_record(folder, **changes):
    record = json.loads((folder / "cache.json").read_text())
    (folder / "cache.json").write_text(json.dumps({**record, **changes}))


def flip_index(folder):
    index = bytearray((folder / "index.safetensors").read_bytes())
    index[-1] ^= 1
    (folder / "index.safetensors").write_bytes(index)


DAMAGES = {
    "answers truncated": lambda folder: os.truncate(folder / "answers.bin", 5),
    "keys longer": lambda folder: os.truncate(folder / "keys_values.bin", PLAN.bytes),
    "keys gone": lambda folder: (folder / "keys_values.bin").unlink(),
    "index gone": lambda folder: (folder / "index.safetensors").unlink(),
    "index edited": flip_index,
    "record gone": lambda folder: (folder / "cache.json").unlink(),
    "record torn": lambda folder: os.truncate(folder / "cache.json", 40),
    "record a list": lambda folder: (folder / "cache.json").write_text("[]"),
    "no checksum": lambda folder: (folder / "cache.json").write_text('{"format": 1, "key": "0123456789abcdef"}'),
    "other version": lambda folder: edit_record(folder, format=0),
    "description edited": lambda folder: edit_record(folder, description={"split": "train"}),
    "shape edited": lambda folder: edit_record(folder, shape={}),
    "other key": lambda folder: folder.rename(folder.with_name("f" * 16)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_never_opened_and_is_built_anew(tmp_path, damage):
    build(tmp_path / KEY)
    DAMAGES[damage](tmp_path / KEY)
    assert [open_store(folder) for folder in tmp_path.iterdir()] == [None]
    assert_states(build(tmp_path / KEY), PLAN, [2, 0, 2])


def test_an_unfinished_cache_is_never_opened_under_any_name(tmp_path):
    with StoreWriter(tmp_path / KEY, PLAN, {}) as writer:
        write_missing(writer)
        assert open_store(writer.draft) is None
        assert open_store(tmp_path / KEY) is None
    writer.draft.rename(tmp_path / KEY)
    assert open_store(tmp_path / KEY) is None


def test_the_draft_of_another_plan_is_not_resumed(tmp_path):
    with StoreWriter(tmp_path / KEY, plan_of([1] * 11, [-1] * 11, []), {}) as writer:
        write_missing(writer)
    assert_states(build(tmp_path / KEY), PLAN, list(range(11)))


def test_states_of_other_sizes_or_dtypes_are_refused(tmp_path):
    with StoreWriter(tmp_path / KEY, PLAN, {}) as writer:
        with pytest.raises(ValueError, match="expected"):
            writer.write_prefix(0, prefix_of(PLAN, 1))
        with pytest.raises(ValueError, match="float32"):
            writer.write_prefix(0, prefix_of(PLAN, 0).float())
        states = (answer_of(PLAN, 0)[None], own_of(PLAN, 0)[:, :, None], torch.tensor([2]))
        with pytest.raises(ValueError, match="expected"):
            writer.write([0], *states)
        assert 0 in writer.missing_questions()


def test_a_disk_too_small_is_told_before_the_first_byte(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=PLAN.bytes - 1))
    with pytest.raises(ResourceError, match=f"{PLAN.bytes:,} bytes .* {PLAN.bytes - 1:,} "):
        StoreWriter(tmp_path / KEY, PLAN, {})
    assert not list(tmp_path.rglob("*.bin"))


def test_caches_lie_where_the_user_says(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_root(None) == Path("/elsewhere/moe_tune/prompts")
    assert cache_root("~/prompts") == Path.home() / "prompts"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root(None) == Path.home() / ".cache/moe_tune/prompts"
