"""Whatever surrounds a fit, it ends well and writes its run: locales, streams, homes, names of folders, terminals."""

import os
import subprocess
import sys
import time
from pathlib import Path

from cases_endings import ROOT, TINY
from tiny import only_run

from moe_tune.faults.case import Case

FIT = ["fit", *TINY, "--name", "größe 你好"]
"""A fit whose name few encodings can say."""
ENDS = "exit 0, no traceback, a whole run"


def _told(code, err, root):
    traceback = "a traceback" if any(word in err for word in ("Traceback", "Error:", "Exception ignored")) else ""
    whole = (only_run(root) / "checkpoints" / "last.ckpt").is_dir() if root.is_dir() else False
    return f"exit {code}, {traceback or 'no traceback'}, {'a whole run' if whole else f'no run: {err[-300:]}'}"


def _fresh(name, env, without=(), words=FIT, kind="environment"):
    """Return the case of a new interpreter: what is read when it starts."""

    def attempt(trial):
        ended = trial.fresh(words, env, without=without)
        return _told(ended.code, ended.err, trial.folder / "runs")

    return Case(kind, name, ENDS, attempt)


def _forked(name, env, folder="runs", before=None, prepare=None, words=FIT, kind="environment"):
    """Return the case of a process that has been forked, for what is read as a command runs."""

    def attempt(trial):
        if prepare is not None:
            prepare(trial.folder)
        ended = trial.run([*words, "--runs_root", folder], env, before)
        return _told(ended.code, ended.err, trial.folder / folder)

    return Case(kind, name, ENDS, attempt)


def _shell(name, ending, expected):
    """Return the case of a shell that does something with the streams of a fit."""

    def attempt(trial):
        around = {**os.environ, "PYTHONPATH": os.pathsep.join(one or str(Path.cwd()) for one in [str(ROOT), *sys.path])}
        line = f'set -o pipefail; "$0" -m moe_tune "$@" {ending}'
        ended = subprocess.run(
            ["bash", "-c", line, sys.executable, *FIT], cwd=trial.folder, env=around, capture_output=True,
            timeout=120, check=False,
        )  # fmt: skip
        told = _told(ended.returncode, ended.stderr.decode(errors="replace"), trial.folder / "runs")
        return told.replace("exit 141,", "exit 0,")  # as F36 allows

    return Case("F36", name, expected, attempt)


def _without_home():
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        os.environ.pop(name, None)
    os.environ["XDG_CACHE_HOME"] = str(Path("cache").absolute())
    os.environ["XDG_STATE_HOME"] = str(Path("state").absolute())


def _ascii():
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="ascii", errors="strict")


def _into_undecodable():
    name = b"runs-\xff"
    os.mkdir(name)
    os.chdir(name)


def _clock_back():
    """Let the clock jump back by a day in the midst of training."""
    now, calls = time.time, [0]

    def changed():
        calls[0] += 1
        return now() - (86_400 if calls[0] > 20 else 0)

    time.time = changed


UTF8_OFF = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def _undecodable_word(trial):
    ended = trial.run([*FIT[:-2], "--runs_root", os.fsdecode(b"runs-\xff")])
    told = "a word in UTF-8 asked for" if "UTF-8" in ended.err and "Traceback" not in ended.err else ended.err[-300:]
    return f"exit {ended.code}, {told}, {'nothing' if not list(trial.folder.glob('runs*')) else 'something'} written"


def _undecodable_folder(trial):
    ended = trial.run(FIT, before=_into_undecodable)
    return _told(ended.code, ended.err, trial.folder / os.fsdecode(b"runs-\xff") / "runs")


CASES = [
    _fresh("PYTHONIOENCODING=ascii", {"PYTHONIOENCODING": "ascii"}),
    _fresh("LC_ALL=C", {"LC_ALL": "C"}),
    _fresh("LC_ALL=POSIX, no coercion, UTF-8 mode off", {"LC_ALL": "POSIX", **UTF8_OFF}, words=FIT[:-2]),
    _fresh("LANG, LC_ALL and LC_CTYPE are not set", {}, ("LANG", "LC_ALL", "LC_CTYPE")),
    _shell("stdout and stderr closed", ">&- 2>&-", ENDS),
    _shell("stdin closed", "<&-", ENDS),
    _shell("stdout into head -c 1", "| head -c 1 > /dev/null", ENDS),
    _shell("both into head -c 1", "2>&1 | head -c 1 > /dev/null", ENDS),
    _forked("streams that can say ASCII alone, strictly", {}, before=_ascii),
    _forked("no HOME", {}, before=_without_home),
    _forked("HOME is not there", {"HOME": "absent/home"}),
    _forked("TMPDIR is not there", {"TMPDIR": "absent"}),
    _forked("TERM=dumb without a terminal", {"TERM": "dumb", "COLUMNS": "20", "NO_COLOR": "1"}),
    _forked("a folder with spaces", {}, "a folder of runs"),
    _forked("a folder in unicode", {}, "größe 你好 \u202e"),
    _forked("a folder of 255 bytes", {}, "r" * 255),
    _forked("a folder of quotes and a line break", {}, "a'b\"c\nd$e"),
    Case(
        "F34", "undecodable bytes on the command line", "exit 2, a word in UTF-8 asked for, nothing written",
        _undecodable_word,
    ),
    _forked("the clock jumps back by a day", {}, before=_clock_back, kind="F34"),
    Case("F34", "the working directory has undecodable bytes", ENDS, _undecodable_folder),
]  # fmt: skip
