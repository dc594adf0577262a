import os
import signal

import pytest

from jaxad import stopping


@pytest.fixture(autouse=True)
def handlers(monkeypatch):
    """The handlers of a run, nothing asked for yet; the test's own handlers come back."""
    monkeypatch.setattr(stopping, "_state", stopping._State())
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    stopping.catch_signals()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_work_that_saves_nothing_at_once(number):
    with pytest.raises(stopping.Stopped):
        os.kill(os.getpid(), number)
    assert stopping.requested()


def test_a_loop_that_saves_sees_the_request_and_is_not_cut_off():
    with stopping.deferred():
        assert not stopping.requested()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stopping.requested()
    with pytest.raises(stopping.Stopped, match=r"^after step 3$"):
        stopping.stop_if_requested("after step 3")


def test_a_second_ctrl_c_stops_at_once():
    with pytest.raises(KeyboardInterrupt), stopping.deferred():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_no_loop_begins_after_a_request():
    stopping.request()
    with pytest.raises(stopping.Stopped), stopping.deferred():
        pytest.fail("the loop was begun")


def test_the_end_of_one_loop_leaves_another_one_uncut():
    with stopping.deferred():
        with stopping.deferred():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.requested()


def test_code_that_goes_on_after_errors_does_not_go_on_after_a_stop():
    assert not issubclass(stopping.Stopped, Exception)
