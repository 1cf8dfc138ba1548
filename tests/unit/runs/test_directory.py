"""The run directory: whenever its process is killed, the next one finds the old run or the new one, whole and alone."""

import itertools
import json
import multiprocessing
import os
import shutil

import pytest

from moe_tune.base.published import published
from moe_tune.runs.directory import RunDirectory, identity

FORK = multiprocessing.get_context("fork")


def killed_at(instant, work):
    """Do some work in a process that dies as it is about to change the disk for that time; say whether it did."""

    def child():
        count = itertools.count()

        def deadly(function):
            def wrapped(*args, **kwargs):
                if next(count) == instant:
                    os._exit(9)
                return function(*args, **kwargs)

            return wrapped

        os.replace, os.mkdir = deadly(os.replace), deadly(os.mkdir)
        shutil.rmtree, os.fsync = deadly(shutil.rmtree), deadly(os.fsync)
        work()
        os._exit(0)

    process = FORK.Process(target=child)
    process.start()
    process.join()
    return process.exitcode == 9


def write_checkpoint(run, content):
    with published(run / "checkpoints" / "last.ckpt") as draft:
        draft.mkdir()
        (draft / "router").write_text(content)


def every_instant(folder, prepare, work):
    """Yield a run directory for each instant at which a process can be killed in its work, after that kill."""
    for instant in itertools.count():
        run = folder / str(instant) / "run"
        prepare(run)
        died = killed_at(instant, lambda run=run: work(run))
        yield run
        if not died:
            assert instant > 3
            return


def test_a_kill_while_a_checkpoint_is_replaced_leaves_the_old_one_or_the_new(tmp_path):
    found = set()
    for run in every_instant(
        tmp_path, lambda run: write_checkpoint(run, "old"), lambda run: write_checkpoint(run, "new")
    ):
        directory = RunDirectory(run).claimed()
        found.add((directory.last_checkpoint / "router").read_text())
        assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.ckpt"]
        directory.settle(None)
    assert found == {"old", "new"}


def finish(run):
    RunDirectory(run).update_manifest(status="finished", made="old")
    (run / "metrics.jsonl").write_text("{}\n")


def start_anew(run):
    directory = RunDirectory(run).claimed()
    aside = directory.set_aside()
    run.mkdir()
    (run / "wandb").mkdir()
    directory.update_manifest(status="started", made="new")
    directory.settle(aside)


def test_a_kill_while_a_finished_run_is_set_aside_leaves_it_or_the_new_one(tmp_path):
    found = set()
    for run in every_instant(tmp_path, finish, start_anew):
        directory = RunDirectory(run).claimed()
        found.add(directory.manifest["made"])
        assert (run / "metrics.jsonl").exists() == (directory.manifest["made"] == "old")
        directory.settle(None)
        assert [path.name for path in run.parent.iterdir()] == ["run"]
    assert found == {"old", "new"}


def test_a_job_that_does_not_begin_removes_nothing_it_did_not_make(tmp_path):
    write_checkpoint(tmp_path / "run", "somebody's")
    directory = RunDirectory(tmp_path / "run").claimed()
    directory.settle(None)
    assert (directory.last_checkpoint / "router").read_text() == "somebody's"
    directory = RunDirectory(tmp_path / "other").claimed()
    (tmp_path / "other" / "wandb").mkdir(parents=True)
    directory.settle(None)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("name", ["run.old-mine", "run.old-0123456z", "run-validate", "run2.old-01234567"])
def test_what_only_looks_left_behind_is_left_alone(tmp_path, name):
    finish(tmp_path / "run")
    (tmp_path / name).mkdir()
    RunDirectory(tmp_path / "run").claimed().settle(None)
    assert (tmp_path / name).is_dir()
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["made"] == "old"


def test_arguments_that_came_later_make_no_other_name_at_their_defaults():
    def config(class_path, **more):
        return {"seed": 0, "data": {"source": {"class_path": class_path, "init_args": {"path": "quiz", **more}}}}

    files, later = "moe_tune.data.local_files.LocalFiles", {"columns": None, "answers_from": None, "corrected": False}
    before = identity(config(files))
    assert identity(config(files, **later)) == before
    others = [identity(config(files, **{**later, key: one})) for key, one in (("answers_from", 0), ("corrected", True))]
    assert len({before, *others, identity(config("mine.Source")), identity(config("mine.Source", columns=None))}) == 5


def test_a_quantised_base_model_is_another_run_and_one_that_is_not_has_the_name_it_had():
    config = {"model": {"base": {"path": "nano"}}}
    given = [{"model": {"base": {"path": "nano", "quantise": bits}}} for bits in (None, 8, 4)]
    assert identity(given[0]) == identity(config)
    assert len({identity(one) for one in given}) == 3
