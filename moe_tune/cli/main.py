"""The command line: verbs and exit codes; nothing heavy is imported before it is needed."""

import sys
import tempfile
import traceback
from contextlib import suppress

from moe_tune.base.denied import refuse_denied
from moe_tune.base.errors import ConfigError, MoeTuneError, did_you_mean, require
from moe_tune.base.plugins import load_plugin_files, without_plugins, without_trust
from moe_tune.base.preemption import (
    AGAIN,
    AT_ONCE,
    Aborted,
    Preempted,
    keyboard_ends,
    keyboard_is_late,
    let_workers_go,
    listening,
)
from moe_tune.base.redact import without_secrets
from moe_tune.base.resources import told_fault
from moe_tune.base.streams import mend_streams, quit_streams
from moe_tune.base.trusted import trusting
from moe_tune.cli.verbs import VERBS, command_of

HELP = f"""moe_tune: try gating fixes in mixture-of-experts language models, and see whether they are real.

usage: python -m moe_tune [--plugins FILE.py] [--trust] VERB ...

{"".join(f"  {verb:<12} {summary}{chr(10)}" for verb, summary in VERBS.items())}
examples:
  python -m moe_tune fit --config configs/nano.yaml
  python -m moe_tune fit --config configs/nano.yaml --config configs/head/temperature.yaml --model.head.tau 0.5
  python -m moe_tune test NAME
  python -m moe_tune compare NAME
  python -m moe_tune generate NAME "The capital of France is"
  python -m moe_tune lm-eval NAME --tasks arc_easy,wikitext
  python -m moe_tune experiment experiments/demo
  python -m moe_tune analyze --config configs/nano.yaml
  python -m moe_tune grid --config configs/nano.yaml --config configs/head/temperature.yaml \\
      --vary model.head.tau=0.3,0.5,0.7,1.5
  python -m moe_tune check configs/sweep/*.yaml
  python -m moe_tune list heads
  python -m moe_tune list runs

python -m moe_tune VERB --help names the keys of data, model, head, losses, optimizer and runs, --help-all Lightning's
trainer keys, too; fit --model.head.help TemperatureHead explains a head, its formula and its options.
A configuration file and a plug-in file are code: run only those you trust. What a run, a checkpoint or a file that is
only looked at names outside moe_tune, lightning.pytorch, torch.optim, torch.nn and peft is refused without --trust.
"""


def main(argv: list[str] | None = None) -> int:
    """Run a verb and return its exit code."""
    try:
        with listening():
            code = _main(list(sys.argv[1:] if argv is None else argv))
            sys.stdout.flush()  # a pipe that nobody reads, or a full disk behind it, is found here
        return code
    except MoeTuneError as fault:
        return _ended(fault)
    except KeyboardInterrupt:
        _say("moe_tune: interrupted.")
        return 130
    except BrokenPipeError:
        return 141
    except Preempted as end:
        stood = f" {end.told}" if end.told else ""
        _say(f"moe_tune: pre-empted{stood} ({end.signal_name}); resume with the same command")
        return AGAIN
    except Aborted:
        _say("moe_tune: aborted. The same command again goes on from the last checkpoint.")
        return AT_ONCE
    except Exception as fault:  # the boundary of the program: a fault of ours becomes one line and a file
        told = told_fault(fault)
        return _report(fault) if told is None else _ended(told)


def entry() -> None:
    """Run the process's arguments and exit with the verb's code."""
    mend_streams()
    keyboard_ends()
    try:
        sys.exit(main())
    finally:
        keyboard_is_late()
        let_workers_go()
        quit_streams()


def _main(words: list[str]) -> int:
    words, trust = without_trust(words)
    for word in words:
        hint = "a name in UTF-8; where the locale is ASCII, PYTHONUTF8=1."
        require(not _undecodable(word), "words in UTF-8", word, "the command line", hint)
    with trusting(trust):
        return _verb(*without_plugins(words))


def _verb(words: list[str], files: list[str]) -> int:
    if words[:1] != ["doctor"]:  # which says what else is amiss
        refuse_denied()
    plugins = load_plugin_files(files)
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP)
    elif words[0] == "--version":
        from moe_tune import __version__

        print(__version__)
    elif words[0] not in VERBS:
        raise ConfigError(f"expected a verb but got {words[0]!r}. Hint: {did_you_mean(words[0], VERBS)}")
    else:
        return command_of(words[0])(words[1:], plugins)
    return 0


def _undecodable(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return True
    return False


def _ended(fault: MoeTuneError) -> int:
    _say(f"moe_tune: {without_secrets(str(fault))}")
    return fault.exit_code


def _report(fault: BaseException) -> int:
    summary = f"{type(fault).__name__}: {without_secrets(' '.join(str(fault).split()))[:300]}"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="moe_tune-", suffix=".traceback", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as handle:
            handle.write(without_secrets("".join(traceback.format_exception(fault))))
        where = f"The traceback is in {handle.name}."
    except OSError as why:
        where = f"There is no place for its traceback ({why})."
    _say(f"moe_tune: unexpected {summary}. {where}")
    return 1


def _say(message: str) -> None:
    with suppress(OSError):  # nobody reads it
        print(message, file=sys.stderr)
