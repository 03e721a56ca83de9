import os
import signal
import threading

import pytest

from cinelora.train.signals import Stop


def test_the_first_signal_asks_and_the_second_does_what_it_always_does(caplog):
    with Stop() as stop:
        assert not stop.asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
        assert "SIGTERM" in caplog.text
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_launcher_that_passes_a_signal_on_is_no_second_wish(monkeypatch):
    """Ctrl-C under torchrun: one from the terminal, one at once from torchrun; a later one is meant."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    now = [100.0]
    monkeypatch.setattr("cinelora.train.signals.time.monotonic", lambda: now[0])
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        now[0] += 1
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked
        now[0] += 5
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_outside_the_main_thread_signals_stay_as_they_are():
    before, found = signal.getsignal(signal.SIGINT), []

    def work():
        with Stop() as stop:
            found.append((stop.asked, signal.getsignal(signal.SIGINT) == before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, True)]
