"""Signals end the program where that is safe: at once, or when who holds them has looked."""

import os
import signal
import time

import pytest

from moe_tune.base.preemption import AGAIN, AT_ONCE, Aborted, Preempted, asked, held, listening


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_is_raised_at_once_unless_it_is_held(number):
    before = signal.getsignal(number)
    with listening():
        with pytest.raises(Preempted) as raised:
            os.kill(os.getpid(), number)
        assert (raised.value.code, raised.value.signal_name) == (AGAIN, number.name)
    with listening(), held():
        assert asked() is None
        os.kill(os.getpid(), number)
        assert asked() == number.name
    assert signal.getsignal(number) is before


def test_the_keyboard_aborts_at_its_second_word_and_a_scheduler_does_not():
    with listening(), held():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked() == "SIGTERM"
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Aborted) as raised:
            os.kill(os.getpid(), signal.SIGINT)
    assert raised.value.code == AT_ONCE


def test_a_signal_within_a_destructor_is_heard_when_it_is_over():
    """Python drops what is raised in one, and the program would go on."""

    class Ends:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            over.append(True)

    def ends():
        Ends()
        time.sleep(5)

    over = []
    with listening(), pytest.raises(Preempted):
        ends()
    assert over
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


def test_what_is_put_off_ends_with_the_listening():
    class Ends:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)

    with listening():
        Ends()
    time.sleep(0.2)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
