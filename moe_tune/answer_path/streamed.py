"""Prompt states computed when they are asked for, with nothing kept on disk."""

import torch
from torch import Tensor
from torch.nn import functional

from moe_tune.answer_path.prompt_pass import PromptPass
from moe_tune.answer_path.states import PromptStates


class StreamedStates:
    """Runs the prompts of each batch anew; the questions of a shared prefix together.

    Args:
        prompt_pass: Computes the states.
    """

    def __init__(self, prompt_pass: PromptPass) -> None:
        self.prompt_pass = prompt_pass

    def batch(self, question_B: Tensor) -> PromptStates:
        """Return the states of questions, in the order asked."""
        groups: dict[int, list[int]] = {}
        for place, question in enumerate(question_B.tolist()):
            groups.setdefault(self.prompt_pass.prefixes.prefix_Q[question], []).append(place)
        questions = question_B.tolist()
        parts = [self.prompt_pass.batch([questions[place] for place in places]) for places in groups.values()]
        if len(parts) == 1:
            return parts[0]
        longest = max(part.own_UVBHSC.shape[-2] for part in parts)
        own = [functional.pad(part.own_UVBHSC, (0, 0, 0, longest - part.own_UVBHSC.shape[-2])) for part in parts]
        device, most = question_B.device, max(part.answer_BXD.shape[1] for part in parts)
        answers = [  # of several answer tokens, as cloze questions have them
            functional.pad(part.answer_BXD, (0, 0, 0, 0, 0, most - part.answer_BXD.shape[1])) for part in parts
        ]
        order = torch.tensor([place for places in groups.values() for place in places], device=device).argsort()
        return PromptStates(
            torch.cat(answers)[order],
            torch.cat(own, dim=2)[:, :, order],
            torch.cat([part.length_B for part in parts])[order],
            torch.cat([part.prefix_B for part in parts])[order],
            {index: value for part in parts for index, value in part.prefixes.items()},
            torch.cat([part.position_B for part in parts])[order],
        )
