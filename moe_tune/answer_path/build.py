"""Building a prompt cache: one pass over a split's prompts, announced, resumable, and published at its end."""

import itertools
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from filelock import SoftFileLease, Timeout
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from rich import progress as shown
from rich.console import Console
from rich.filesize import decimal
from rich.text import Text

from moe_tune.answer_path.prefixes import SharedPrefixes
from moe_tune.answer_path.states import PromptStates
from moe_tune.answer_path.store import PromptStore, StorePlan, open_store
from moe_tune.answer_path.store_writer import StoreWriter, draft_of
from moe_tune.base.errors import ConfigError, ModelError
from moe_tune.base.locks import SOMEBODY, cache_lock, forget_unwritten, holder
from moe_tune.base.memory import give_back
from moe_tune.base.progress import screen
from moe_tune.base.ranks import ALONE, Ranks, everywhere
from moe_tune.base.resources import writing

BATCH_PRICE = 384
"""What a batch costs beside its tokens, in tokens: reading the weights once more."""
PASS_TOKENS = 4096
"""Tokens per batch of the pass: enough that every expert gets many, few enough for a laptop's memory."""
ASK_SECONDS = 5.0
"""How long the first process waits for a lock before it tells the others that it still waits."""
COMMIT_SECONDS = 10.0
"""A build that is killed loses at most this much work."""

TEXT_TRUNK = "trunk of text"
"""The kind of a cache of what enters the first trained layer, of blocks of text."""
OTHER_DISKS = (
    "expected a folder of prompt caches that every process sees but got {} (model.answer_path.folder). "
    "Hint: --model.answer_path.folder on a disk that all machines share, or --model.answer_path.use never."
)


class Pass(Protocol):
    """Computes what is kept of prompts."""

    prefixes: SharedPrefixes

    def batch(self, question_B: Sequence[int]) -> PromptStates:
        """Return what is kept of questions that share one prefix, or have none."""


def build_store(
    folder: Path, plan: StorePlan, description: dict[str, Any], prompt_pass: Pass, ranks: Ranks = ALONE
) -> PromptStore:
    """Return the cache in a folder, computing what is missing of it; of two builders at once, one waits.

    Raises:
        ConfigError: The processes see different disks.
        ResourceError: The disk is too small.
    """
    lock = cache_lock(folder)
    if not ranks.rank:
        folder.parent.mkdir(parents=True, exist_ok=True)
    _wait_for(lock, ranks)
    try:
        if not ranks.broadcast(not ranks.rank and open_store(folder) is not None):
            noun = "blocks" if description.get("kind") == TEXT_TRUNK else "questions"
            rank_zero_info(
                f"prompt cache of {description['split']}: {len(plan.own_length_Q):,} {noun}, "
                f"{decimal(plan.bytes, precision=2)}, {folder}"
            )
            _fill(folder, plan, description, prompt_pass, ranks)
            give_back()  # batches of a pass differ in size, and what they leave between them is of no use to a step
    finally:
        if not ranks.rank:
            lock.release()
    ranks.barrier()
    built = open_store(folder)
    seen = everywhere(built is not None)
    if built is None and not ranks.rank:
        raise ModelError(f"expected a prompt cache in {folder} but it is gone. Hint: run the command again.")
    if built is None or not seen:
        raise ConfigError(OTHER_DISKS.format(folder.parent))
    return built


def _wait_for(lock: SoftFileLease, ranks: Ranks) -> None:
    """Wait until the first process has the lock; the others ask it often, as what they ask by has a timeout."""
    told = ""
    while True:
        if not ranks.rank:
            forget_unwritten(lock)
            with suppress(Timeout):
                lock.acquire(timeout=ASK_SECONDS if told else 0.0)
        if ranks.broadcast(lock.is_locked):
            return
        if not ranks.rank and (owner := holder(lock)) != told and not (told and owner == SOMEBODY):
            print(f"waiting for {owner}, which builds this cache", file=sys.stderr)
            told = owner


def _fill(folder: Path, plan: StorePlan, description: dict[str, Any], prompt_pass: Pass, ranks: Ranks) -> None:
    first = None if ranks.rank else StoreWriter(folder, plan, description, 0, ranks.world_size)
    ranks.barrier()  # the files are there
    if not everywhere(draft_of(folder).is_dir()):
        raise ConfigError(OTHER_DISKS.format(folder.parent))
    with writing(folder), first or StoreWriter(folder, plan, description, ranks.rank, ranks.world_size) as writer:
        missing = writer.missing_questions()
        batches = pass_batches(missing, plan, prompt_pass.prefixes)
        shortfall = set(writer.missing_prefixes())
        committed = time.monotonic()
        with screen() as console, _progress(console, disable=ranks.rank > 0) as progress:
            task = progress.add_task(f"prompts {description['split']}", total=len(missing))
            for question_B in batches:
                states = prompt_pass.batch(question_B)
                for prefix in shortfall & states.prefixes.keys():
                    writer.write_prefix(prefix, states.prefixes[prefix])
                    shortfall.discard(prefix)
                writer.write(question_B, states.answer_BXD, states.own_UVBHSC, states.length_B)
                progress.advance(task, len(question_B))
                if time.monotonic() - committed > COMMIT_SECONDS:
                    writer.commit()
                    committed = time.monotonic()
        writer.commit()
        ranks.barrier()
        if not ranks.rank:
            writer.publish()


def pass_batches(questions: Sequence[int], plan: StorePlan, prefixes: SharedPrefixes) -> list[list[int]]:
    """Return the batches of a pass: each of one prefix, of like length, the longest first."""
    lengths = plan.own_length_Q.tolist()
    order = sorted(questions, key=lambda index: (prefixes.prefix_Q[index], -lengths[index], index))
    runs = itertools.groupby(order, key=lambda index: prefixes.prefix_Q[index])
    return [batch for _, run in runs for batch in _cheapest(list(run), lengths)]


def _cheapest(run: list[int], lengths: Sequence[int]) -> list[list[int]]:
    """Return the cheapest cut of questions of falling length: padded tokens cost, and each batch a fixed price."""
    cost, cut_at = [0], [0]
    for end in range(1, len(run) + 1):
        best: tuple[float, int] = (float("inf"), 0)
        for start in range(end - 1, -1, -1):
            padded = (lengths[run[start]] + 1) * (end - start)
            if padded > PASS_TOKENS and end - start > 1:
                break
            best = min(best, (cost[start] + padded + BATCH_PRICE, start))
        cost.append(int(best[0]))
        cut_at.append(best[1])
    ends = [len(run)]
    while ends[-1]:
        ends.append(cut_at[ends[-1]])
    ends.reverse()
    return [run[start:end] for start, end in itertools.pairwise(ends)]


class _Speed(shown.ProgressColumn):
    def render(self, task: shown.Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.1f} questions/s")


def _progress(console: Console, disable: bool) -> shown.Progress:
    counted = (shown.BarColumn(), shown.MofNCompleteColumn(), _Speed())
    times = (shown.TimeElapsedColumn(), shown.TimeRemainingColumn())
    return shown.Progress("{task.description}", *counted, *times, console=console, transient=True, disable=disable)
