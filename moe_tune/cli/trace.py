"""The verb ``trace``: how the routers of a model or a run route one prompt."""

from pathlib import Path
from typing import Any

from moe_tune.base.errors import ConfigError
from moe_tune.base.locks import output_folder
from moe_tune.cli.named_run import named_checkpoint
from moe_tune.cli.verbs import parsed_with_fit
from moe_tune.reports.console import PlainConsole


def add_arguments(parser: Any) -> None:
    """Add the verb's options."""
    parser.add_argument("--prompt", type=str, help="the text; may stand behind the run, or last, without its name")
    parser.add_argument("--out", type=str, help="folder of trace.html, trace.png and trace.csv")


def main(argv: list[str], plugins: dict[str, str]) -> int:
    """Trace a prompt through a model or a run, print one row per token and write a page, a picture and the rows."""
    from moe_tune.base.checkpoint_folder import CONFIG
    from moe_tune.settings.config_files import config_label

    words, run = list(argv), None
    bare = [not word.startswith("-") for word in words]
    if bare[:2] == [True, True]:
        words[1:2] = ["--prompt", words[1]]
    elif len(words) > 1 and bare[-1] and not words[-2].startswith("--"):
        words[-1:] = ["--prompt", words[-1]]
    if words and not words[0].startswith("-"):
        run = named_checkpoint("trace", words)
        words[0:1] = ["--config", str(run / CONFIG)]
    names = {word.partition("=")[0] for word in words}
    if not names & {"-h", "--help", "--help-all"} and not (names & {"--config", "-c"} and "--prompt" in names):
        raise ConfigError(
            f"expected a run or --config FILE, and a prompt, but got {' '.join(argv) or 'nothing'} (trace). "
            'Hint: python -m moe_tune trace RUN "The capital of France is"'
        )
    host = parsed_with_fit("trace", add_arguments, words, plugins)
    # Imported here so that --help answers at once.
    import torch

    from moe_tune.analysis.prompt_trace import trace
    from moe_tune.analysis.trace_files import continuation_table, token_table, write_trace
    from moe_tune.runs.checkpoint import RouterCheckpointIO
    from moe_tune.tuner.opening import open_model

    asked = host.model.asked
    opened = open_model(asked, torch.device("cpu"))
    if run is not None:
        opened.restore(RouterCheckpointIO().load_checkpoint(run))
    elif any(head.traits.needs_calibration for head in opened.gated.heads.values()):
        raise ConfigError(
            f"expected a head that needs no calibration but got {opened.gated.head_name} (trace). "
            "Hint: fit it first, then trace RUN."
        )
    home = Path(host.settings.runs_root) / f"{config_label(['fit', *words])}-trace"
    if run is not None:
        home = (run.parent.parent if run.parent.name == "checkpoints" else run) / "trace"
    out = Path(host.settings.out) if host.settings.out else home
    about = {
        "prompt": host.settings.prompt,
        "model": str(asked.base.path),
        "head": f"{opened.gated.head_name}, scope {opened.gated.scope}, layers {opened.gated.layers}",
        "run": str(run or "none: the configuration's head before a fit"),
    }
    with output_folder(out):
        seen = trace(opened.gated, asked.base.load_tokenizer(), host.settings.prompt)
        if run is None:
            seen = seen.without_copy()
        write_trace(seen, out, about)
    console = PlainConsole()
    console.print(token_table(seen).terminal(), continuation_table(seen).terminal())
    if len(seen.routers) == 1:
        console.print(
            f"tuned: left out, before a fit {opened.gated.head_name} does what the pretrained router does here. "
            "Hint: trace RUN",
            soft_wrap=True,
        )
    console.print(f"picture, page and rows: {out}/trace.png, trace.html, trace.csv", soft_wrap=True)
    return 0
