"""Telling what is slow, as on a busy machine, from what stands still."""

_SECONDS = 20


def join_while_it_gets_on(thread, done):
    """Returns once the thread has ended, or has brought nothing more to `done` for a while."""
    count = -1
    while thread.is_alive() and count != len(done):
        count = len(done)
        thread.join(_SECONDS)
