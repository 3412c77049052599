"""The short form of fuzzing: all that was kept, and some that is new, the same every time."""

import random

import pytest

from fuzz.mutation import mutated
from fuzz.player import TARGETS, Player, corpus
from fuzz.scripts import Script

NEW = 800
"""Inputs of each target, beyond its corpus."""

MEASURED = 4
"""One of so many has its memory measured."""


@pytest.fixture(params=TARGETS)
def player(request):
    playing = Player(request.param, MEASURED)
    yield request.param, playing
    playing.close()


def test_the_corpus_is_answered_as_the_contract_says(player):
    """Inputs that were kept have right results or a status of the contract, and hold nothing."""
    name, playing = player
    inputs = corpus(name)
    assert inputs
    for data in inputs:
        playing.play(data)


def test_mutations_are_answered_as_the_contract_says(player):
    """So has every one of some hundred mutations of these, of mutations of them, and so on."""
    name, playing = player
    inputs, chance = corpus(name), random.Random(1)
    for _ in range(NEW):
        data = mutated(chance.choice(inputs), playing.target, chance)
        playing.play(data)
        if chance.random() < 0.1:
            inputs.append(data)


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_are_a_script(name):
    """What a script is written as is read as the same script; any other bytes are one, too."""
    chance = random.Random(2)
    for data in corpus(name):
        noise = chance.randbytes(chance.randrange(64))
        for each in (data, data[: chance.randint(0, len(data))], noise):
            script = Script.of(each)
            assert Script.of(script.to_bytes()) == script
