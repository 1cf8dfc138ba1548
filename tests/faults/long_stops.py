"""Every stop of a fit of two epochs, by SIGKILL and SIGTERM; and SIGKILL at random instants inside saves."""

import random
import signal

from cases_checkpoints import case, while_saving
from cases_endings import FORMS, stops

SEED, SAVES = 0, 200
BATCHES, EPOCHS = 6, 2
_random = random.Random(SEED)
CASES = [
    *(
        stops(kind, form, number, batch, epoch)
        for kind, number in (("F1", signal.SIGKILL), ("F4", signal.SIGTERM))
        for form in FORMS
        for epoch in range(EPOCHS)
        for batch in range(BATCHES)
    ),
    *(
        case("F2", f"SIGKILL in a save, at its call {number}", "137, 0, same bits, left []", while_saving, number)
        for number in (_random.randrange(150) for _ in range(SAVES))
    ),
]
