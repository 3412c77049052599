"""Every kernel that the engine can launch, by what tells one from another; and a selection.

In: the losses of `kernel_cases`, dtypes, tilings and architectures. Out: variants, each with its
kernel at the most classes that its tiling is chosen for, where registers are fullest.

The selection is what `make test` compiles: of all variants as few as it takes to have

- every case for every architecture by every kind of tiling,
- every dtype for every architecture by every tiling,
- every pair of a case, dtype, tiling, layout and architecture.
"""

import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

from kernel_cases import ELEMENT_CASES, EVERYTHING, FLOATS, PLAIN, ROW_CASES
from losswire_proto.losses import LossCall, SigmoidCrossEntropy, SoftmaxCrossEntropy
from losswire_server.engine import launches
from losswire_server.engine.launches import Kernel
from losswire_server.engine.tilings import LANES, Traits
from losswire_server.requests import LossRequest

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")

CASES = (
    {name: (loss, dict(more)) for name, (loss, more) in ROW_CASES.items()}
    | {
        "softcap": (SoftmaxCrossEntropy(softcap=5.0), {}),
        "extras": (SoftmaxCrossEntropy(extras=EVERYTHING.extras), {}),
        "loss alone": (PLAIN, {"grad_logits": False}),
        "distributions of float64": (PLAIN, {"labels": "float64"}),
        "shared distributions": (PLAIN, {"is_table": True, "grad_labels": True}),
    }
    | {f"elements: {name}": (loss, {}) for name, loss in ELEMENT_CASES.items()}
    | {"elements: sigmoid, weighted": (SigmoidCrossEntropy(), {"has_pos_weight": True})}
)
"""Losses with how their labels are given; those of `kernel_cases`, and options one by one that
change what a thread must hold."""

_CLASSES = tuple(1 << power for power in range(3, 20))
"""Every threshold of `launches` is one of these, and the last is beyond them all."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One kernel for one architecture.

    Attributes:
        tiling: who computes a row: "few", "WARP_PER_ROW", "CLUSTER_PER_ROW 512 x 8"…
        layout: classes "together" or "apart".
    """

    case: str
    dtype: str
    tiling: str
    layout: str
    architecture: str
    kernel: Kernel

    @property
    def needs(self) -> set[tuple[str, ...]]:
        """What the selection must have at least one of, and this is one of."""
        factors = (self.case, self.dtype, self.tiling, self.layout, self.architecture)
        kind = self.tiling.split()[0]
        return {
            *itertools.combinations(factors, 2),
            (self.case, kind, self.architecture),
            (self.dtype, self.tiling, self.architecture),
        }


def every_variant() -> list[Variant]:
    """The complete product; of tilings, those that a case has on a device."""
    found = []
    planned = {}
    for case, dtype, architecture in itertools.product(CASES, FLOATS, ARCHITECTURES):
        major, minor = divmod(int(architecture.removeprefix("sm_")), 10)
        traits = Traits((major, minor), multiprocessors=128)
        key = (case, dtype, traits.largest_cluster)
        if key not in planned:
            planned[key] = _kernels(case, dtype, traits)
        for (tiling, layout), kernel in planned[key].items():
            found.append(Variant(case, dtype.name, tiling, layout, architecture, kernel))
    return found


def selection(variants: list[Variant]) -> list[Variant]:
    """As few as meet every need of these, or nearly: each need's best, one after another."""
    having = defaultdict(list)
    for variant in variants:
        for need in variant.needs:
            having[need].append(variant)
    met, chosen, used = set(), [], Counter()

    def gain(variant: Variant) -> tuple[int, int]:
        return len(variant.needs - met), -used[variant.dtype] - used[variant.layout]

    # The longest first: what meets them meets most of the others.
    for need in sorted(having, key=lambda need: (-len(need), need)):
        if need not in met:
            best = max(having[need], key=gain)
            met |= best.needs
            used.update((best.dtype, best.layout))
            chosen.append(best)
    return chosen


def _kernels(case: str, dtype: np.dtype, traits: Traits) -> dict[tuple[str, str], Kernel]:
    """By tiling and layout, each at the most classes that it is chosen for."""
    kernels = {}
    for classes, is_strided in itertools.product(_CLASSES, (False, True)):
        request = request_of(case, dtype, classes)
        if request.call.loss.is_elementwise and is_strided:
            continue
        launch = launches.plan(request, 1, traits, is_strided=is_strided)
        layout = "apart" if is_strided else "together"
        kernels[_tiling(launch), layout] = launch.kernel
    return kernels


def _tiling(launch: launches.Launch) -> str:
    macros = dict(launch.kernel.macros)
    if "TILING" not in macros:
        return launch.kernel.source.removesuffix(".cu")
    blocks = f" x {launch.cluster}" if launch.cluster > 1 else ""
    name = "CLUSTER_PER_ROW" if launch.cluster > 1 else macros["TILING"]
    threads = "" if name in LANES else f" {launch.block}"
    return f"{name}{threads}{blocks}"


def request_of(case: str, dtype: np.dtype, classes: int) -> LossRequest:
    """A request of no contents: only what decides about its kernel."""
    loss, more = CASES[case]
    labels = more.get("labels", "ids")
    logits = np.zeros((2, classes), dtype)
    fields = {"labels": np.zeros(2, np.int64), "reading": "ids"}
    if loss.is_elementwise:
        fields = {"labels": logits, "reading": "elements"}
    elif labels == "none":
        fields = {"labels": None, "reading": "none"}
    elif more.get("is_table"):
        fields = {"labels": logits[:1], "reading": "distribution"}
    elif labels != "ids":
        kind = dtype if labels == "distribution" else np.dtype(labels)
        fields = {"labels": logits.astype(kind), "reading": "distribution"}
    if more.get("has_class_weight"):
        fields["class_weight"] = np.ones(classes, np.float32)
    if more.get("has_pos_weight"):
        fields["pos_weight"] = logits
    call = LossCall(
        loss,
        grad_logits=more.get("grad_logits", True) and labels != "none",
        grad_labels=more.get("grad_labels", False),
    )
    return LossRequest(call, logits, 1, **fields)
