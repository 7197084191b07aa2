"""Signals come between two steps."""

import os
import signal
from contextlib import suppress

import pytest

from qhybridd.apps.interrupts import CAUGHT, Interrupts


def _me(number: int) -> None:
    os.kill(os.getpid(), number)


def test_a_signal_waits_for_the_end_of_the_step() -> None:
    done = []
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt), interrupts.hold():
            _me(signal.SIGINT)
            done.append("the rest of the step")
        assert done


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_end_from_outside_is_an_exit_with_its_number(number: int) -> None:
    with Interrupts(), pytest.raises(SystemExit) as ended:
        _me(number)
    assert ended.value.code == 128 + number


def test_a_signal_that_was_swallowed_comes_again() -> None:
    with Interrupts() as interrupts:
        with suppress(KeyboardInterrupt):
            _me(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), interrupts.hold():
            pass


def test_a_double_ctrl_c_comes_once_on_the_way_to_the_removal() -> None:
    with Interrupts() as interrupts:
        try:
            _me(signal.SIGINT)
        except KeyboardInterrupt:
            _me(signal.SIGINT)  # between the exception and the removal
            with interrupts.last():
                pass


def test_a_signal_outweighs_a_failure_of_the_step() -> None:
    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt), interrupts.hold():
        _me(signal.SIGINT)
        raise RuntimeError("a child process got it too")


def test_the_removal_is_not_disturbed() -> None:
    with Interrupts() as interrupts:
        with interrupts.last():
            _me(signal.SIGINT)
            _me(signal.SIGTERM)
        with interrupts.hold():
            pass


def test_a_fork_dies_of_the_signal_and_removes_nothing() -> None:
    with Interrupts():
        pid = os.fork()
        if pid == 0:
            try:
                _me(signal.SIGTERM)
            finally:
                os._exit(99)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGTERM


def test_the_handlers_are_as_before() -> None:
    before = [signal.getsignal(number) for number in CAUGHT]
    with Interrupts():
        assert [signal.getsignal(number) for number in CAUGHT] != before
    assert [signal.getsignal(number) for number in CAUGHT] == before
