"""The command line: verbs and exit codes; nothing heavy is imported before it is needed."""

import errno
import sys
import tempfile
import traceback

from moe_tune.base.denied import refuse_denied
from moe_tune.base.errors import ConfigError, MoeTuneError, ResourceError, did_you_mean
from moe_tune.base.plugins import load_plugin_files, without_plugins
from moe_tune.cli.verbs import VERBS, command_of

HELP = f"""moe_tune: try gating fixes in mixture-of-experts language models, and see whether they are real.

usage: python -m moe_tune [--plugins FILE.py] VERB ...

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
A configuration file and a plug-in file are code: run only those you trust.
"""


def main(argv: list[str] | None = None) -> int:
    """Run a verb and return its exit code."""
    try:
        return _main(list(sys.argv[1:] if argv is None else argv))
    except MoeTuneError as fault:
        print(f"moe_tune: {fault}", file=sys.stderr)
        return fault.exit_code
    except KeyboardInterrupt:
        print("moe_tune: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into exit code 1
            print("moe_tune: interrupted. The same command again resumes from the last epoch.", file=sys.stderr)
            return 130
        raise
    except Exception as fault:  # the boundary of the program: a fault of ours becomes one line and a file
        if out_of_resources(fault):
            print(
                f"moe_tune: expected enough memory and disk but got: {' '.join(str(fault).split())[:300]}. "
                "Hint: a smaller --data.batch_size, or another --runs_root.",
                file=sys.stderr,
            )
            return ResourceError.exit_code
        return _report(fault)


def out_of_resources(fault: BaseException) -> bool:
    """Return whether a fault says that memory or disk space ran out.

    Example:
        >>> out_of_resources(MemoryError())
        True
    """
    no_space = isinstance(fault, OSError) and fault.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE)
    return no_space or isinstance(fault, MemoryError) or type(fault).__name__ == "OutOfMemoryError"


def entry() -> None:
    """Run the process's arguments and exit with the verb's code."""
    sys.exit(main())


def _main(words: list[str]) -> int:
    words, files = without_plugins(words)
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


def _report(fault: BaseException) -> int:
    with tempfile.NamedTemporaryFile("w", prefix="moe_tune-", suffix=".traceback", delete=False) as handle:
        traceback.print_exception(fault, file=handle)
    summary = f"{type(fault).__name__}: {' '.join(str(fault).split())[:300]}"
    print(f"moe_tune: unexpected {summary}. The traceback is in {handle.name}.", file=sys.stderr)
    return 1
