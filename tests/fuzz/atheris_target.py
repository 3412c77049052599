"""One target under atheris: `python -m fuzz.atheris_target TARGET [libFuzzer's flags] [folders]`.

Inputs are steered by what of this project's code they reach; a failing one is left in a file that
libFuzzer names. FUZZ_ITSELF is a command that does the same as this one for the target, which
libFuzzer calls to merge corpora.
"""

import os
import random
import sys

import atheris

with atheris.instrument_imports(include=["losswire_proto", "losswire_server", "losswire"]):
    from fuzz.player import Player

from fuzz.mutation import mutated

MEASURED = 16
"""One of so many inputs has its memory measured."""


def main():
    """Fuzzes until libFuzzer has had enough."""
    with atheris.instrument_imports(include=["losswire_proto", "losswire_server", "losswire"]):
        player = Player(sys.argv[1], MEASURED)

    def mutate(data, most, seed):
        def change(content):
            return atheris.Mutate(content, len(content) + 8)

        return mutated(data, player.target, random.Random(seed), change, most)

    itself = os.environ.get("FUZZ_ITSELF", sys.argv[0])
    atheris.Setup([itself, *sys.argv[2:]], player.play, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
