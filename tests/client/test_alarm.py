"""What the sending thread of small calls sleeps by."""

import threading

from getting_on import join_while_it_gets_on
from losswire._alarm import Alarm


def test_wakes_its_sleeper_now_or_later():
    """Set off before or while its thread sleeps, it wakes it; twice set off is once."""
    alarm, woken = Alarm(), threading.Semaphore(0)

    def sleep():
        for _ in range(3):
            alarm.wait(60)
            woken.release()

    alarm.set()
    alarm.set()
    assert alarm.wait(60)
    assert not alarm.wait(0)
    sleeper = threading.Thread(target=sleep)
    sleeper.start()
    for _ in range(3):
        alarm.set()
        assert woken.acquire(timeout=60)
    sleeper.join()
    assert not alarm.wait(0)


def test_no_sleep_outlasts_its_time():
    """However short it is: a nanosecond is over before its end is first compared with the clock.

    With a `SimpleQueue` in its place one of these sleeps is for ever, after some thousands.
    """
    alarm, slept = Alarm(), []

    def sleep():
        for _ in range(30_000):
            alarm.set()
            slept.append((alarm.wait(1e-9), alarm.wait(1e-9)))

    sleeper = threading.Thread(target=sleep, daemon=True)
    sleeper.start()
    join_while_it_gets_on(sleeper, slept)
    assert slept == [(True, False)] * 30_000
