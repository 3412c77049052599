"""The NumPy engine, and what it gives for one request alone."""

import numpy as np

from losswire_proto.losses import LossCall, SoftmaxCrossEntropy
from losswire_server.engine.numpy_engine import NumpyEngine
from losswire_server.requests import LossRequest

LOGITS = np.array([[2.0, 1.0, 0.5], [1.0, 0.5, 0.0]])
LOSS = [0.4643687841079449, 1.1802696706417346]
"""Of these logits and the ids 0 and 1, by TensorFlow 2.21."""


def of_two_threads():
    """For a fixture: an engine that computes large requests on both of its threads."""
    made = NumpyEngine(threads=2)
    yield made
    made.close()


def request_of(logits, labels, *, axis=-1, sample_weight=None, gradients=True, loss=None, **call):
    """A request as validation would make it."""
    is_ids = labels.dtype.kind in "iu"
    return LossRequest(
        call=LossCall(
            loss=loss or SoftmaxCrossEntropy(),
            axis=axis,
            grad_logits=gradients,
            grad_labels=gradients and not is_ids,
            **call,
        ),
        logits=logits,
        axis=axis % logits.ndim,
        labels=labels,
        reading="ids" if is_ids else "distribution",
        sample_weight=sample_weight,
    )


def compute(engine, *args, **kwargs):
    """The result of a request of softmax cross-entropy."""
    return engine.compute([request_of(*args, **kwargs)])[0]


def compute_loss(engine, loss, logits, labels, reading, **tensors):
    """The result of a request of any loss, along the last axis."""
    call = LossCall(loss, grad_logits=reading != "none")
    request = LossRequest(call, logits, logits.ndim - 1, labels, reading, **tensors)
    return engine.compute([request])[0]
