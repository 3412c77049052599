"""The kernels for the GPU agree with NumPy: the same text, played on the processor by fibers."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from emulation.cubins import compile_cubin
from emulation.emulator import DEVICE, compile_kernel
from emulation.kernels import HOPPER, TURING, compute, largest_difference
from losswire_proto.losses import (
    BinaryCrossEntropy,
    CategoricalCrossEntropy,
    Focal,
    KlDivergence,
    LogSoftmax,
    LossCall,
    SequenceLoss,
    SigmoidCrossEntropy,
    Softmax,
    SoftmaxCrossEntropy,
)
from losswire_server.engine import launches
from losswire_server.engine.numpy_engine import NumpyEngine
from losswire_server.requests import UNKNOWN, LossRequest

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = (np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64))
EVERYTHING = SoftmaxCrossEntropy(
    label_smoothing=0.1,
    z_loss=0.01,
    softcap=5.0,
    temperature=2.0,
    extras=("logsumexp", "argmax", "entropy"),
)
PLAIN = SoftmaxCrossEntropy()

ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
"""Of one operation, relative."""

STEPS = 64
"""Roundings that a result may be off by, relative to the larger of it and 1: a thread adds up to 64
terms one after another, and formulas have some steps of their own."""


@pytest.fixture(scope="module")
def numpy_engine():
    engine = NumpyEngine(1)
    yield engine
    engine.close()


def request_of(loss, shape, dtype="float32", axis=-1, labels="ids", seed=0, **more):
    """A request with random contents; `labels` is a reading, or the dtype of distributions."""
    random = np.random.default_rng(seed)
    axis %= len(shape)
    classes, examples = shape[axis], shape[:axis] + shape[axis + 1 :]
    logits = random.standard_normal(shape) * 3
    if "probabilities" in loss.input_name:
        logits = np.abs(logits) + 1e-3
        logits /= logits.sum(axis, keepdims=True)
    dtype = np.dtype(dtype)
    reading, given = labels, None
    if labels == "ids":
        given = random.integers(0, classes, examples)
    elif labels == "elements":
        given = random.random(shape).astype(dtype)
    elif labels != "none":
        reading = "distribution"
        given = random.random(shape)
        given = (given / given.sum(axis, keepdims=True)).astype(
            dtype if labels == "distribution" else labels
        )
    options = {name: more.pop(name) for name in ("reduction", "grad_labels") if name in more}
    call = LossCall(loss, axis=axis, grad_logits=labels != "none", **options)
    if more.pop("has_class_weight", False):
        more["class_weight"] = random.random(classes).astype(np.float32)
    return LossRequest(call, logits.astype(dtype), axis, given, reading, **more)


def assert_same(request, engine, traits=HOPPER, order="forward"):
    """The kernel's results are those of the engine in float64, but for rounding."""
    written = compute(request, traits, order)
    exact = replace(request, logits=request.logits.astype(np.float64), form=UNKNOWN)
    (expected,) = engine.compute([exact])
    assert written.fault == launches.NO_FAULT
    own = ROUNDING[request.logits.dtype.name]
    real = max(2.0**-53, min(own, 2.0**-24))
    # A sum of labels far from 1 is what gradients are small beside.
    mass = 1.0
    if request.labels is not None and request.reading == "distribution":
        mass = max(1.0, float(np.nansum(np.abs(request.labels.astype(float)), request.axis).max()))
    compared = [
        ("loss", written.per_example, expected.per_example, STEPS * real),
        ("grad_logits", written.dense, expected.grad_logits, (STEPS * real + 2 * own) * mass),
        ("output", written.dense, expected.output, STEPS * real + 2 * own),
        *(
            (name, getattr(written, name), array, STEPS * real)
            for name, array in expected.extras.items()
        ),
    ]
    if expected.grad_labels is not None and not request.is_broadcast:
        rounding = ROUNDING[request.labels.dtype.name]
        compared.append(
            ("grad_labels", written.grad_labels, expected.grad_labels, STEPS * real + 2 * rounding)
        )
    for name, found, wanted, allowed in compared:
        if wanted is not None:
            difference = largest_difference(found.reshape(wanted.shape), wanted)
            assert difference <= allowed, f"{name}: {difference:.1e} apart, {allowed:.1e} allowed"
    return written


ROW_CASES = {
    "plain": (PLAIN, {}),
    "everything": (EVERYTHING, {"has_class_weight": True}),
    "distributions": (PLAIN, {"labels": "distribution"}),
    "everything, distributions": (
        EVERYTHING,
        {"labels": "distribution", "has_class_weight": True, "grad_labels": True},
    ),
    "TensorFlow's gradient": (
        SoftmaxCrossEntropy(label_gradient="tf"),
        {"labels": "bfloat16", "grad_labels": True},
    ),
    "probabilities": (CategoricalCrossEntropy(label_smoothing=0.1), {}),
    "probabilities, clipped first": (
        CategoricalCrossEntropy(clip_order="clip_first", epsilon=0.01),
        {"labels": "distribution"},
    ),
    "divergence": (KlDivergence(), {"labels": "distribution"}),
    "divergence of teacher logits": (
        KlDivergence(target_is_logits=True, temperature=3.0, scale_by_temperature_squared=True),
        {"labels": "distribution"},
    ),
    "focal": (Focal(alpha=0.25), {}),
    "focal, distributions": (Focal(gamma=1.5), {"labels": "distribution"}),
    "softmax": (Softmax(), {"labels": "none"}),
    "log softmax": (LogSoftmax(), {"labels": "none"}),
}
"""Every loss on rows, with its options off and on."""

ELEMENT_CASES = {
    "sigmoid": SigmoidCrossEntropy(),
    "sigmoid, smoothed": SigmoidCrossEntropy(label_smoothing=0.2),
    "binary": BinaryCrossEntropy(),
    "binary, no epsilon": BinaryCrossEntropy(epsilon=0.0, label_smoothing=0.1),
    "focal": Focal(form="sigmoid"),
    "focal, alpha": Focal(form="sigmoid", gamma=0.5, alpha=0.3),
}

TILINGS = {
    "a thread": (7, HOPPER),
    "a warp": (301, HOPPER),
    "a block": (5_000, HOPPER),
    "a cluster": (70_000, HOPPER),
    "two reads": (70_000, TURING),
}
"""Classes, and a device on which so many are computed by a thread, a warp … per row."""


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
@pytest.mark.parametrize(("shape", "axis"), [((3, 7, 5), 1), ((100, 6), 0), ((2, 2_500, 3), 1)])
def test_class_axis_anywhere(shape, axis, labels, numpy_engine):
    """Rows whose classes do not lie together are found by the kernel's addressing."""
    assert_same(request_of(PLAIN, shape, axis=axis, labels=labels), numpy_engine)


@pytest.mark.parametrize("classes", [7, 301, 2_500])
def test_the_class_axis_changes_no_bit(classes):
    """A row has the same bits wherever its classes lie: blocks of a stream come class-last."""
    last = request_of(EVERYTHING, (6, classes), has_class_weight=True)
    first = replace(
        last,
        call=replace(last.call, axis=0),
        logits=np.ascontiguousarray(last.logits.T),
        axis=0,
        form=UNKNOWN,
    )
    a, b = compute(last), compute(first)
    assert a.per_example.tobytes() == b.per_example.tobytes()
    assert a.entropy.tobytes() == b.entropy.tobytes()
    assert a.dense.tobytes() == b.dense.T.tobytes()


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


def adversarial(classes, dtype):
    """Rows of NaN, infinities, masks, offsets and extremes among good ones."""
    huge = 60_000 if dtype == np.float16 else 1e30
    logits = np.random.default_rng(1).standard_normal((10, classes)) * 3
    logits[1] = -np.inf
    logits[2], logits[2, 1] = -np.inf, 1
    logits[3, 0], logits[4, 0] = np.nan, np.inf
    logits[5] += 1e4
    logits[6], logits[6, 1] = -huge, huge
    logits[7, classes // 2 :] = -np.inf
    logits[8] = 0
    logits[9, 0] = 40  # all but certain
    return logits.astype(dtype)


@pytest.mark.parametrize("loss", [PLAIN, SoftmaxCrossEntropy(ignore_index=1), Focal()], ids=str)
@pytest.mark.parametrize("tiling", TILINGS)
def test_adversarial_rows(loss, tiling, numpy_engine):
    """What is wrong in a row stays in it, and masks and extremes are as mathematics says."""
    classes, traits = TILINGS[tiling]
    logits = adversarial(classes, np.float32)
    ids = np.array([0, 1, 1, 0, 0, 2, 1, 0, 0, 0])
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


ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")

SPILLED = 40
"""Bytes that a kernel may put aside around the rare slow path of a division or a logarithm, most in
float64: what does not fit the registers is put aside for every element, hundreds of bytes of it."""


def assert_held_in_registers(architecture, requests):
    """Compiles the kernels of these requests and reads what the compiler says of them."""
    major, minor = divmod(int(architecture.removeprefix("sm_")), 10)
    traits = launches.Traits((major, minor), 48 << 10)

    def compiled(kernel):
        source, macros = DEVICE / kernel.source, dict(kernel.macros)
        return kernel, compile_cubin(source, macros, architecture, kernel.entry)

    kernels = {launches.plan(each, 1, traits, is_strided=False).kernel for each in requests}
    with ThreadPoolExecutor() as compilers:
        for kernel, cubin in compilers.map(compiled, kernels):
            spilled = f"{cubin.registers} registers and {cubin.spill_stores} bytes"
            assert cubin.spill_stores <= SPILLED, f"{kernel}: {spilled}"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_fit_the_registers(architecture):
    """Every loss with its options off and on compiles, by every tiling, and spills nothing."""
    requests = [
        request_of(loss, (1, classes), **more)
        for (loss, more), classes in itertools.product(
            ROW_CASES.values(), (10, 2_048, 16_384, 131_072)
        )
    ]
    requests += [request_of(loss, (1, 9), labels="elements") for loss in ELEMENT_CASES.values()]
    assert_held_in_registers(architecture, requests)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("architecture", ["sm_75", "sm_90"])
def test_every_tiling_fits_the_registers(architecture, dtype):
    """At the most classes that each tiling is chosen for, where its registers are fullest."""
    requests = [
        request_of(loss, (1, classes), dtype, **more)
        for loss, more in (ROW_CASES["plain"], ROW_CASES["everything"], ROW_CASES["distributions"])
        for classes in (64, 2_048, 8_192, 16_384, 32_768, 262_144)
    ]
    assert_held_in_registers(architecture, requests)
