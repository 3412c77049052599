"""Side by side with PyTorch on the CPU; run by `make test-frameworks`."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="make test-frameworks installs it")


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("kind", ["ids", "distribution"])
def test_cross_entropy(client, reduction, kind):
    """Loss and gradient equal torch.nn.functional.cross_entropy's to float32 rounding."""
    random = np.random.default_rng(0)
    array = random.normal(size=(8, 10, 5)).astype(np.float32)
    logits = torch.tensor(array, requires_grad=True)
    if kind == "ids":
        labels = random.integers(0, 10, (8, 5))
        labels[0, 0] = -100
        options = {"ignore_index": -100}
    else:
        labels = random.dirichlet(np.ones(10), (8, 5)).transpose(0, 2, 1).astype(np.float32).copy()
        options = {"normalizer": "size"}  # PyTorch's mean for distributions
    own = torch.nn.functional.cross_entropy(logits, torch.tensor(labels), reduction=reduction)
    own.sum().backward()
    result = client.softmax_cross_entropy(array, labels, axis=1, reduction=reduction, **options)
    # Both round a handful of float32 operations differently.
    np.testing.assert_allclose(result.loss, own.detach().numpy(), rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(result.grad_logits, logits.grad.numpy(), rtol=1e-5, atol=2e-7)
