"""Many clients at once: each gets exactly its own results, with the bits it gets alone."""

import asyncio
import threading

import ml_dtypes
import numpy as np
import pytest

import losswire

# Random label rows are what is wanted here.
pytestmark = pytest.mark.filterwarnings("ignore:labels. some rows of distributions:UserWarning")

CLIENTS = 64
DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


def arguments(seed):
    """A request of some shape and some options, different for each seed."""
    random = np.random.default_rng(seed)
    classes = [3, 10, 100][seed % 3]
    shape = [random.integers(1, 40), classes]
    axis = -1
    if seed % 5 == 0:
        shape, axis = [random.integers(1, 6), classes, random.integers(1, 6)], 1
    logits = random.normal(size=shape).astype(DTYPES[seed % 4])
    examples = np.delete(shape, axis)
    options = {"axis": axis, "reduction": ("none", "sum", "mean")[seed % 3]}
    if seed % 2:
        labels = random.integers(0, classes, examples)
        options["ignore_index"] = int(labels.flat[0]) if seed % 7 == 1 else None
    else:
        labels = random.random(shape if seed % 4 else [classes if axis == -1 else 1]).astype(
            np.float32
        )
        options["gradients"] = ("logits", "labels")
    if seed % 3 == 0:
        options["sample_weight"] = random.random(examples)
        options["normalizer"] = ("weights", "size", 17.0)[seed % 9 // 3]
    return (logits, labels), options


def bits(result):
    arrays = (result.loss, result.per_example, result.grad_logits, result.grad_labels)
    return [None if array is None else (array.shape, array.tobytes()) for array in arrays]


def served_alone(server):
    with losswire.Client(server.target) as client:
        return [
            bits(client.softmax_cross_entropy(*args, **options))
            for args, options in map(arguments, range(CLIENTS))
        ]


def test_64_clients_of_mixed_shapes_and_options(server):
    """64 clients in 64 threads, ten rounds each: every result as if served alone, to the bit."""
    expected = served_alone(server)
    assert len({str(each) for each in expected}) == CLIENTS
    outcomes = [None] * CLIENTS
    barrier = threading.Barrier(CLIENTS)

    def work(seed):
        args, options = arguments(seed)
        try:
            with losswire.Client(server.target) as client:
                barrier.wait(60)
                outcomes[seed] = [
                    bits(client.softmax_cross_entropy(*args, **options)) == expected[seed]
                    for _ in range(10)
                ]
        except Exception as error:  # noqa: BLE001 -- shown by the assertion below
            outcomes[seed] = error

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [[True] * 10] * CLIENTS


def test_one_asynchronous_client_with_64_calls_in_flight(server):
    """The same requests, all in flight from one asynchronous client."""
    expected = served_alone(server)

    async def play():
        async with losswire.AsyncClient(server.target) as client:
            calls = [
                client.softmax_cross_entropy(*args, **options)
                for args, options in map(arguments, list(range(CLIENTS)) * 5)
            ]
            return [bits(result) for result in await asyncio.gather(*calls)]

    assert asyncio.run(play()) == expected * 5
