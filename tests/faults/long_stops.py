"""Every stop of a fit of two epochs, by SIGKILL and SIGTERM; and SIGKILL at random instants inside saves."""

import signal

from cases_endings import BATCHES, EPOCHS, FORMS, stops
from cases_saves import some_cases

SAVES = 200
CASES = [
    *(
        stops(kind, form, number, batch, epoch)
        for kind, number in (("F1", signal.SIGKILL), ("F4", signal.SIGTERM))
        for form in FORMS
        for epoch in range(EPOCHS)
        for batch in range(BATCHES)
    ),
    *some_cases(SAVES),
]
