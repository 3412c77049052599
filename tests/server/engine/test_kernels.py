"""The kernels for the GPU agree with NumPy: the same text, played on the processor by fibers."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from emulation.emulator import DEVICE, compile_kernel
from emulation.kernels import HOPPER, TURING, compute
from kernel_cases import (
    BFLOAT16,
    ELEMENT_CASES,
    EVERYTHING,
    FAINT,
    FLOATS,
    PLAIN,
    ROW_CASES,
    TILINGS,
    adversarial,
    assert_digits_of_padded,
    assert_faint,
    assert_near,
    exact_results,
    padded,
    request_of,
)
from losswire_proto.losses import (
    Focal,
    KlDivergence,
    LossCall,
    SequenceLoss,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
)
from losswire_server.engine import launches
from losswire_server.engine.numpy_engine import NumpyEngine
from losswire_server.requests import UNKNOWN, LossRequest

# The first test waits for the compilers: for a minute, or longer where others keep the cores busy.
pytestmark = pytest.mark.timeout(600)

NEARLY_FULL = {
    "lanes": (3 * 64, HOPPER),
    "a warp": (3 * 256, HOPPER),
    "a block": (3 * 1024, HOPPER),
    "a cluster": (4 * 8192, HOPPER),
    "two reads": (4 * 8192, TURING),
}
"""Classes of bfloat16 that fill rounds of who computes them, and a device on which it does."""

FULL = {
    "a thread": (64, HOPPER, 300),
    "lanes": (512, HOPPER, 300),
    "a warp": (2048, HOPPER, 100),
    "a block": (8192, HOPPER, 30),
    "a cluster": (65_536, HOPPER, 10),
    "two reads": (400_000, TURING, 4),
}
"""Classes of float32 of which a thread has as many as it can hold, or more; a device; and rows."""


@pytest.fixture(scope="module")
def numpy_engine():
    engine = NumpyEngine(1)
    yield engine
    engine.close()


def assert_same(request, engine, traits=HOPPER, order="forward"):
    """The kernel's results are those of the engine in float64, but for rounding."""
    written = compute(request, traits, order)
    assert written.fault == launches.NO_FAULT
    found = {
        "per_example": written.per_example,
        "grad_logits": written.dense,
        "output": written.dense,
        "grad_labels": written.grad_labels,
        "logsumexp": written.logsumexp,
        "argmax": written.argmax,
        "entropy": written.entropy,
    }
    assert_near(found, request, exact_results(request, engine))
    return written


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """Kernels of the matrix, compiled by as many compilers as there are cores."""
    kernels = set()
    for (loss, more), (classes, traits) in itertools.product(ROW_CASES.values(), TILINGS.values()):
        request = request_of(loss, (2, classes), **more)
        kernels.add(launches.plan(request, 2, traits, is_strided=False).kernel)
    with ThreadPoolExecutor() as compilers:
        for _ in compilers.map(
            lambda kernel: compile_kernel(
                DEVICE / kernel.source, dict(kernel.macros), kernel.entry
            ),
            kernels,
        ):
            pass


def test_arguments_are_the_same_on_both_sides():
    """The struct of the kernels and NumPy's dtype have one size; a field less would show."""
    launch = launches.plan(request_of(PLAIN, (2, 3)), 2, HOPPER, is_strided=False)
    kernel = compile_kernel(
        DEVICE / launch.kernel.source, dict(launch.kernel.macros), launch.kernel.entry
    )
    assert kernel.size_of_arguments == launches.ARGUMENTS.itemsize


@pytest.mark.parametrize("tiling", TILINGS)
@pytest.mark.parametrize("case", ROW_CASES)
def test_losses_of_rows(case, tiling, numpy_engine):
    """Every loss, all its options off or on, by every tiling."""
    (loss, more), (classes, traits) = ROW_CASES[case], TILINGS[tiling]
    assert_same(request_of(loss, (3, classes), **more), numpy_engine, traits)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("classes", [1, 10, 1_000, 1_001])
def test_dtypes(dtype, classes, numpy_engine):
    """Every dtype, rows aligned to 16 bytes or to one element."""
    assert_same(request_of(PLAIN, (5, classes), dtype), numpy_engine)


@pytest.mark.parametrize(
    ("more", "labels"), [(1, "float32"), (2, "ids"), (4, "float32"), (8, "ids")]
)
@pytest.mark.parametrize("tiling", NEARLY_FULL)
def test_words_of_any_width(tiling, more, labels, numpy_engine):
    """Rows aligned to 2, 4, 8 and 16 bytes, with one such word beyond what all threads have."""
    classes, traits = NEARLY_FULL[tiling]
    assert_same(
        request_of(PLAIN, (3, classes + more), BFLOAT16, labels=labels), numpy_engine, traits
    )


@pytest.mark.parametrize("case", ELEMENT_CASES)
@pytest.mark.parametrize("dtype", [BFLOAT16, np.dtype(np.float32)], ids=str)
def test_losses_of_elements(case, dtype, numpy_engine):
    """Losses element by element; 91 of them, which fill no whole number of packs."""
    assert_same(request_of(ELEMENT_CASES[case], (13, 7), dtype, labels="elements"), numpy_engine)


def test_positive_weights(numpy_engine):
    """Weights of positive labels, shared by rows."""
    request = request_of(SigmoidCrossEntropy(), (13, 7), labels="elements")
    weights = np.linspace(0, 3, 7, dtype=np.float32)
    assert_same(replace(request, pos_weight=weights, form=UNKNOWN), numpy_engine)


def test_sequences(numpy_engine):
    """The loss of sequences, with weights for each step."""
    request = request_of(SequenceLoss(), (4, 5, 30))
    weights = np.linspace(0, 1, 20, dtype=np.float32).reshape(4, 5)
    assert_same(replace(request, sample_weight=weights), numpy_engine)


@pytest.mark.parametrize("labels", ["ids", "distribution"])
@pytest.mark.parametrize("tiling", FULL)
def test_equal_logits_far_below_keep_digits(tiling, labels):
    """Small terms are many, and each loses in the same direction: `test_digits` has it of NumPy."""
    classes, traits, rows = FULL[tiling]
    request = padded(rows, classes, labels)
    written = compute(request, traits)
    assert_digits_of_padded(request, written.per_example, written.dense)


@pytest.mark.parametrize("case", FAINT)
def test_faint_numbers_are_not_0(case):
    """Below 2^-126 float32 has fewer digits, but has them."""
    request, exact = FAINT[case]()
    assert_faint(compute(request).per_example, exact)


@pytest.mark.parametrize("tiling", TILINGS)
def test_gradients_take_the_logits_place(tiling):
    """Softcap's slopes, too, are of what was there before; classes together or apart."""
    classes, traits = TILINGS[tiling]
    for shape, axis in ([(3, classes), 1], [(classes, 3), 0]):
        request = request_of(EVERYTHING, shape, axis=axis, has_class_weight=True)
        aside = compute(request, traits)
        for order in ("forward", "reverse"):
            in_place = compute(request, traits, order, is_in_place=True)
            assert in_place.dense.tobytes() == aside.dense.tobytes()
            assert in_place.per_example.tobytes() == aside.per_example.tobytes()


@pytest.mark.parametrize("target_is_logits", [False, True])
def test_a_softened_target_begins_late(target_is_logits, numpy_engine):
    """Two peaks are found at different places of a row that goes by, or one of them nowhere yet."""
    loss = KlDivergence(temperature=2.0, target_is_logits=target_is_logits)
    nothing = -np.inf if target_is_logits else 0
    request = request_of(loss, (3, 20_000), labels="distribution")
    request.labels[0, :10_000] = request.labels[1, 9_000:] = nothing
    request.logits[2, :9_000] = -np.inf
    request.labels[2, :9_000] = nothing
    assert_same(request, numpy_engine, TURING)


def test_the_entropy_of_a_masked_row_that_goes_by(numpy_engine):
    """Masks as low as numbers reach are below a later peak by more than that."""
    loss = SoftmaxCrossEntropy(extras=("entropy",))
    request = request_of(loss, (2, 20_000))
    request.logits[:, :19_000] = np.finfo(np.float32).min
    request.labels[:] = 19_500
    assert_same(request, numpy_engine, TURING)


@pytest.mark.parametrize("labels", ["ids", "distribution"])
@pytest.mark.parametrize(("shape", "axis"), [((3, 7, 5), 1), ((100, 6), 0), ((2, 2_500, 3), 1)])
def test_class_axis_anywhere(shape, axis, labels, numpy_engine):
    """Rows whose classes do not lie together are found by the kernel's addressing."""
    assert_same(request_of(PLAIN, shape, axis=axis, labels=labels), numpy_engine)


@pytest.mark.parametrize("labels", ["ids", "distribution"])
@pytest.mark.parametrize(
    ("classes", "dtype"),
    [
        *((7, "float32"), (301, "float32"), (301, "float16"), (301, "float64")),
        *((601, "float32"), (602, "float16"), (2_500, "float32")),
    ],
)
def test_the_class_axis_changes_no_bit(classes, dtype, labels):
    """A row has the same bits wherever its classes lie: blocks of a stream come class-last.

    Eleven rows: no whole number of blocks, whose warps move rows together. In any order of threads,
    so that a barrier that is missing would show.
    """
    last = request_of(
        EVERYTHING,
        (11, classes),
        dtype,
        labels=labels,
        has_class_weight=True,
        grad_labels=labels == "distribution",
    )
    first = replace(
        last,
        call=replace(last.call, axis=0),
        logits=np.ascontiguousarray(last.logits.T),
        labels=np.ascontiguousarray(last.labels.T),
        axis=0,
        form=UNKNOWN,
    )
    a = compute(last)
    for order in ("forward", "reverse", 1):
        b = compute(first, order=order)
        assert a.per_example.tobytes() == b.per_example.tobytes()
        assert a.entropy.tobytes() == b.entropy.tobytes()
        assert a.dense.tobytes() == b.dense.T.tobytes()
        if labels == "distribution":
            assert a.grad_labels.tobytes() == b.grad_labels.T.tobytes()


@pytest.mark.parametrize("classes", [7, 301, 5_000])
def test_distributions_that_rows_share(classes, numpy_engine):
    """A table of distributions, and the gradient to them row by row."""
    request = request_of(PLAIN, (6, classes), labels="distribution", grad_labels=True)
    shared = replace(request, labels=request.labels[:1], form=UNKNOWN)
    written = assert_same(shared, numpy_engine)
    (expected,) = numpy_engine.compute([shared])
    total = written.grad_labels.astype(float).sum(0, keepdims=True)
    # Six rows of losses to about 20: float32 rounds each to 2^-20 of itself at worst.
    np.testing.assert_allclose(total, expected.grad_labels, rtol=1e-5)


@pytest.mark.parametrize("tiling", TILINGS)
def test_no_order_of_threads_changes_a_bit(tiling):
    """Forward, backward and shuffled: a barrier that is missing would show."""
    classes, traits = TILINGS[tiling]
    request = request_of(EVERYTHING, (3, classes), has_class_weight=True)
    first = compute(request, traits)
    for order in ("reverse", 1, 2):
        again = compute(request, traits, order)
        assert again.dense.tobytes() == first.dense.tobytes()
        assert again.per_example.tobytes() == first.per_example.tobytes()
        assert again.entropy.tobytes() == first.entropy.tobytes()


@pytest.mark.parametrize("tiling", TILINGS)
def test_a_row_has_the_same_bits_in_any_batch(tiling):
    """Rows before and after it change nothing."""
    classes, traits = TILINGS[tiling]
    request = request_of(PLAIN, (9, classes))
    whole = compute(request, traits)
    for row in (0, 4, 8):
        alone = replace(
            request,
            logits=request.logits[row : row + 1],
            labels=request.labels[row : row + 1],
            form=UNKNOWN,
        )
        one = compute(alone, traits)
        assert one.dense.tobytes() == whole.dense[row].tobytes()
        assert one.per_example.tobytes() == whole.per_example[row].tobytes()


@pytest.mark.parametrize("loss", [PLAIN, SoftmaxCrossEntropy(ignore_index=1), Focal()], ids=str)
@pytest.mark.parametrize("tiling", TILINGS)
def test_adversarial_rows(loss, tiling, numpy_engine):
    """What is wrong in a row stays in it, and masks and extremes are as mathematics says."""
    classes, traits = TILINGS[tiling]
    logits = adversarial(classes, np.float32)
    ids = np.array([0, 1, 1, 1, 0, 2, 1, 0, 0, 0])
    call = LossCall(loss, grad_logits=True, reduction="mean")
    assert_same(LossRequest(call, logits, 1, ids, "ids"), numpy_engine, traits)


@pytest.mark.parametrize("loss", [EVERYTHING, KlDivergence(), Focal(gamma=1.5)], ids=str)
@pytest.mark.parametrize("classes", [7, 301])
def test_adversarial_rows_with_distributions(loss, classes, numpy_engine):
    """A class without probability takes nothing even of -inf."""
    logits = adversarial(classes, np.float64)
    labels = np.random.default_rng(2).random((10, classes))
    labels[7, classes // 2 :] = 0
    labels[2], labels[2, 1] = 0, 1
    call = LossCall(
        replace(loss, label_smoothing=0.0) if loss is EVERYTHING else loss, grad_logits=True
    )
    assert_same(LossRequest(call, logits, 1, labels, "distribution"), numpy_engine)


@pytest.mark.parametrize("tiling", TILINGS)
@pytest.mark.parametrize("bad", [-1, 1_000_000_000])
def test_an_id_out_of_range_is_reported(tiling, bad):
    """By the first row that has one; its results are NaN, its neighbours' are right."""
    classes, traits = TILINGS[tiling]
    request = request_of(PLAIN, (5, classes))
    right = compute(request, traits)
    ids = request.labels.copy()
    ids[2] = ids[4] = bad
    written = compute(request, traits, ids=ids)
    assert written.fault == 2
    assert np.isnan(written.per_example[[2, 4]]).all()
    assert np.isnan(written.dense[[2, 4]]).all()
    for row in (0, 1, 3):
        assert written.dense[row].tobytes() == right.dense[row].tobytes()
