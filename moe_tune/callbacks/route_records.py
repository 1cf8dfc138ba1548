"""RouteRecords: which experts served each token of the questions that are predicted."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from moe_tune.base.errors import require
from moe_tune.base.routes import UNUSED, routes_writer
from moe_tune.data.batching import Batch
from moe_tune.routing import RoutingTrace
from moe_tune.tuner.router_tuner import RouterTuner


class RouteRecords(Callback):
    """Writes a row per question, token, layer and slot during ``predict``: the expert there, and its weight.

    The prompts run in full, so that every token of them is told of; slots not in use are left out, but for an expert of
    -1 in the first one where none is in use.

    Args:
        file: The parquet file.

    Raises:
        ConfigError: There are several processes, each with a part of the questions, or the choices' texts are scored.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.open = ExitStack()
        self.rows = 0

    def on_predict_start(self, trainer: Trainer, pl_module: RouterTuner) -> None:
        """Open the file."""
        quiz, rule = pl_module.quiz, pl_module.gated.rule
        split, cloze = quiz.predict_split, quiz.is_cloze(quiz.predict_split)
        require(trainer.world_size == 1, "one process", trainer.world_size, "--routes", "--trainer.devices 1.")
        require(not cloze, "prompts that end in a letter", quiz.protocol_name(split), "--routes", "lm_eval is one.")
        about = {"num_experts": rule.num_experts, "top_k": rule.top_k, "base": pl_module.base.path, "split": split}
        about["fingerprint"] = pl_module.gated.fingerprint
        self.write = self.open.enter_context(routes_writer(self.file, about))
        self.ids = np.array([one.id for one in quiz.questions(split)])

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: RouterTuner, outputs: Any, batch: Batch, batch_idx: int, *args: Any
    ) -> None:
        """Write the routes of a batch."""
        columns = route_columns(pl_module.gated.trace, batch, self.ids)
        self.rows += len(columns["expert"])
        self.write(columns)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: RouterTuner) -> None:
        """Put the file in its place."""
        self.open.close()
        rank_zero_info(f"routes of every token, {self.rows:,} rows: {self.file}")

    def on_exception(self, trainer: Trainer, pl_module: RouterTuner, exception: BaseException) -> None:
        """Leave no half of a file."""
        self.open.__exit__(type(exception), exception, exception.__traceback__)


def route_columns(trace: RoutingTrace, batch: Batch, ids: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Return the routes of a batch of whole prompts as columns, by question, token, layer and slot.

    Args:
        trace: The routing of the batch.
        batch: The batch.
        ids: Id of each question of the split.
    """
    index_T = trace.real_T.cpu().nonzero().squeeze(-1)
    layers = sorted(trace.outputs)
    question_T = batch.question_B.cpu()[trace.question_T.cpu()[index_T]]
    place_T = (batch.attention_mask_BS.cumsum(-1) - 1).flatten().cpu()[index_T]
    token_T = batch.input_ids_BS.flatten().cpu()[index_T]
    seen = [trace.outputs[layer] for layer in layers]
    slots = max(one.experts_TK.shape[1] for one in seen)
    expert_TLK = torch.zeros(len(index_T), len(layers), slots, dtype=torch.int16)
    weight_TLK = torch.zeros(expert_TLK.shape)
    used_TLK = torch.zeros(expert_TLK.shape, dtype=torch.bool)
    for at, one in enumerate(seen):
        width = one.experts_TK.shape[1]
        expert_TLK[:, at, :width] = one.experts_TK.cpu()[index_T].to(torch.int16)
        weight_TLK[:, at, :width] = one.weights_TK.detach().float().cpu()[index_T]
        used_TLK[:, at, :width] = True if one.used_TK is None else one.used_TK.cpu()[index_T]
    nothing_TL = ~used_TLK.any(-1)  # a row all the same, so that the token is there
    expert_TLK[nothing_TL, 0], used_TLK[nothing_TL, 0] = UNUSED, True
    row_R, layer_R, slot_R = (one.numpy() for one in used_TLK.nonzero(as_tuple=True))
    return {
        "id": ids[question_T.numpy()[row_R]],
        "token": place_T.numpy()[row_R].astype(np.int32),
        "token_id": token_T.numpy()[row_R].astype(np.int32),
        "layer": np.array(layers, dtype=np.int16)[layer_R],
        "slot": slot_R.astype(np.int16),
        "expert": expert_TLK[used_TLK].numpy(),
        "weight": weight_TLK[used_TLK].numpy(),
    }
