"""Memory that is registered: what lies in it, and that no destructor can be in the way."""

import threading

import numpy as np

from losswire_server.engine.staging import Registered


class Collecting(int):
    """An address whose comparison has a destructor run, as the collector may at any moment."""

    def __new__(cls, value, destroy):
        made = super().__new__(cls, value)
        made.destroy = destroy
        return made

    def __lt__(self, other):
        self.destroy()
        return int(self) < int(other)

    def __gt__(self, other):
        self.destroy()
        return int(self) > int(other)

    __hash__ = int.__hash__


def test_arrays_that_lie_in_registered_memory():
    """In one piece, from the first byte to the last; not beyond, and not once it is gone."""
    memory = np.zeros(1000, np.uint8)
    start = memory.ctypes.data
    registered = Registered()
    assert not registered.holds(memory)
    registered.add(start + 600, 300)
    registered.add(start + 100, 400)
    held = [memory[100:500], memory[100:101], memory[600:900], memory[:0]]
    assert [registered.holds(each) for each in held] == [True, True, True, False]
    beyond = [memory[99:500], memory[100:501], memory[500:600], memory[450:650], memory[900:]]
    assert not any(registered.holds(each) for each in [*beyond, memory[100:500:2]])
    assert registered.remove(start + 100)
    assert not registered.remove(start + 100)
    assert [registered.holds(each) for each in held] == [False, False, True, False]


def test_a_destructor_in_the_middle_of_it():
    """Memory that goes while its thread looks for other memory: neither waits for the other."""
    registered, memory = Registered(), np.zeros(1000, np.uint8)
    start, seen = memory.ctypes.data, []

    def destroy():
        seen.append(registered.remove(start))

    def look():
        for at in (0, 500):
            registered.add(Collecting(start + at, destroy), 500)
        seen.append(registered.holds(memory[500:]))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(30)
    assert seen[-1:] == [True]
    assert True in seen[:-1]
