"""The command line: verbs and exit codes; nothing heavy is imported before it is needed."""

import errno
import hashlib
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from moe_tune.base.errors import ConfigError, MoeTuneError, ResourceError, did_you_mean

HELP = """moe_tune: try gating fixes in mixture-of-experts language models, and see whether they are real.

usage: python -m moe_tune [--plugins FILE.py] VERB ...

  fit          train or calibrate a router head, validate every epoch, test once
  validate     evaluate the validation split
  test         evaluate the test split (each time is recorded in the ledger)
  predict      write the letter probabilities of the test questions
  experiment   run every arm of an experiment.yaml with every seed, then compare
  analyze      which experts a model or a run uses, how sure its gate is, how well they do: tables and one HTML report
  sweep        run a W&B sweep file on this machine, without a server
  compare      compare runs with a baseline run: paired test, intervals, one HTML report
  grid         evaluate many settings of a head, or many checkpoints, in one pass
  cache        build, list, inspect and clean prompt caches
  check        check configurations and W&B sweep files, offline and without loading a model
  estimate     say what memory, disk and time a configuration will need, before anything is loaded
  list         name the heads, losses, metrics, families, sources, protocols
  doctor       show versions, cores, memory, disk and logins

examples:
  python -m moe_tune fit --config configs/nano.yaml
  python -m moe_tune fit --config configs/nano.yaml --config configs/head/temperature.yaml --model.head.tau 0.5
  python -m moe_tune test --ckpt_path runs/NAME/checkpoints/last.ckpt
  python -m moe_tune experiment experiments/demo
  python -m moe_tune analyze --config configs/nano.yaml
  python -m moe_tune grid --config configs/nano.yaml --config configs/head/temperature.yaml \
      --vary model.head.tau=0.3,0.5,0.7,1.5
  python -m moe_tune check configs/sweep/*.yaml
  python -m moe_tune list heads

python -m moe_tune VERB --help names every key; --model.head.help TemperatureHead those of a head.
A configuration file and a plug-in file are code: run only those you trust.
"""


def main(argv: list[str] | None = None) -> int:
    """Run a verb and return its exit code.

    Args:
        argv: Arguments without the program's name; ``None`` takes those of the process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        words, plugins = _take_plugins(words)
        if not words or words[0] in ("-h", "--help", "help"):
            print(HELP)
            return 0
        if words[0] == "--version":
            from moe_tune import __version__

            print(__version__)
            return 0
        verbs = _verbs(plugins)
        if words[0] not in verbs:
            raise ConfigError(f"expected a verb but got {words[0]!r}. Hint: {did_you_mean(words[0], verbs)}")
        return verbs[words[0]](words[1:])
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
    except (MemoryError, OSError, RuntimeError) as fault:
        if not out_of_resources(fault):
            return _report(fault)
        print(
            f"moe_tune: expected enough memory and disk but got: {' '.join(str(fault).split())[:300]}. "
            "Hint: a smaller --data.batch_size, or another --runs_root.",
            file=sys.stderr,
        )
        return ResourceError.exit_code
    except Exception as fault:  # the boundary of the program: a fault of ours becomes one line and a file
        return _report(fault)


def out_of_resources(fault: BaseException) -> bool:
    """Return whether a fault says that memory or disk space ran out.

    Example:
        >>> out_of_resources(MemoryError())
        True
    """
    no_space = isinstance(fault, OSError) and fault.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE)
    return no_space or isinstance(fault, MemoryError) or type(fault).__name__ == "OutOfMemoryError"


def _report(fault: BaseException) -> int:
    with tempfile.NamedTemporaryFile("w", prefix="moe_tune-", suffix=".traceback", delete=False) as handle:
        traceback.print_exception(fault, file=handle)
    summary = f"{type(fault).__name__}: {' '.join(str(fault).split())[:300]}"
    print(f"moe_tune: unexpected {summary}. The traceback is in {handle.name}.", file=sys.stderr)
    return 1


def entry() -> None:
    """Run the process's arguments and exit with the verb's code."""
    sys.exit(main())


def _verbs(plugins: dict[str, str]) -> dict[str, Callable[[list[str]], int]]:
    def lightning(verb: str) -> Callable[[list[str]], int]:
        def command(argv: list[str]) -> int:
            from moe_tune.settings.tuner_cli import AlreadyComplete, run

            try:
                run([verb, *argv], plugins)
            except AlreadyComplete as done:
                print(done)
            return 0

        return command

    def experiment(argv: list[str]) -> int:
        from moe_tune.cli.experiment import main as command

        return command(argv, plugins)

    def compare(argv: list[str]) -> int:
        from moe_tune.cli.compare import main as command

        return command(argv)

    def analyze(argv: list[str]) -> int:
        from moe_tune.cli.analyze import main as command

        return command(argv, plugins)

    def grid(argv: list[str]) -> int:
        from moe_tune.cli.grid import main as command

        return command(argv, plugins)

    def sweep(argv: list[str]) -> int:
        from moe_tune.cli.sweep import main as command

        return command(argv, plugins)

    def check(argv: list[str]) -> int:
        from moe_tune.cli.check import main as command

        return command(argv, plugins)

    def cache(argv: list[str]) -> int:
        from moe_tune.cli.cache import main as command

        return command(argv)

    def estimate(argv: list[str]) -> int:
        from moe_tune.cli.estimate import main as command

        return command(argv, plugins)

    def listing(argv: list[str]) -> int:
        from moe_tune.cli.list import main as command

        return command(argv)

    def doctor(argv: list[str]) -> int:
        from moe_tune.cli.doctor import main as command

        return command(argv)

    return {
        **{verb: lightning(verb) for verb in ("fit", "validate", "test", "predict")},
        "experiment": experiment,
        "analyze": analyze,
        "sweep": sweep,
        "check": check,
        "compare": compare,
        "grid": grid,
        "cache": cache,
        "estimate": estimate,
        "list": listing,
        "doctor": doctor,
    }


def _take_plugins(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """Import the files named by ``--plugins`` and return the other arguments, and each file's sha256."""
    rest: list[str] = []
    plugins: dict[str, str] = {}
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word == "--plugins" or word.startswith("--plugins="):
            if word == "--plugins" and not queue:
                raise ConfigError("expected a file after --plugins but got nothing. Hint: --plugins my_head.py.")
            path = word.partition("=")[2] if "=" in word else queue.pop(0)
            from moe_tune.base.plugins import load_plugin_file

            load_plugin_file(path)
            plugins[path] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        else:
            rest.append(word)
    return rest, plugins
