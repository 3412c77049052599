"""What the sending thread of small calls sleeps by."""

import threading

from losswire._alarm import Alarm


def test_wakes_its_sleeper_now_or_later():
    """Set off before or while its thread sleeps, it wakes it; twice set off is once."""
    alarm, woken = Alarm(), threading.Semaphore(0)

    def sleep():
        while alarm.wait(60):
            woken.release()

    alarm.set()
    alarm.set()
    assert alarm.wait(60)
    assert not alarm.wait(0)
    threading.Thread(target=sleep, daemon=True).start()
    for _ in range(3):
        alarm.set()
        assert woken.acquire(timeout=60)
    assert not woken.acquire(blocking=False)


def test_no_sleep_outlasts_its_time():
    """However short it is: a nanosecond is over before its end is first compared with the clock.

    With a `SimpleQueue` in its place one of these sleeps is for ever, after some thousands.
    """
    alarm, slept = Alarm(), []

    def sleep():
        for _ in range(100_000):
            alarm.set()
            slept.append((alarm.wait(1e-9), alarm.wait(1e-9)))

    sleeper = threading.Thread(target=sleep, daemon=True)
    sleeper.start()
    sleeper.join(60)
    assert slept == [(True, False)] * 100_000
