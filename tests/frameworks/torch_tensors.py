"""Logits and labels of PyTorch, and what a function makes of them."""

import torch

SHAPES = [(7,), (6, 7), (0, 7), (3, 7, 2), (2, 7, 3, 2)]
HALF_ULP = {torch.float16: 2**-11, torch.bfloat16: 2**-8, torch.float32: 2**-24}
HALF_ULP[torch.float64] = 2**-53
WEIGHTS = torch.linspace(0.25, 2, 7)


def logits_of(shape, dtype=torch.float32, seed=0):
    """Random logits that require a gradient."""
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randn(shape, generator=generator, dtype=torch.float64) * 3
    return tensor.to(dtype).requires_grad_()


def ids_of(shape, ignored=None, seed=1):
    """Class ids for logits of a shape, every third of them ignored."""
    axis = 0 if len(shape) == 1 else 1
    examples = shape[:axis] + shape[axis + 1 :]
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(shape[axis], examples, generator=generator)
    if ignored is not None:
        ids.view(-1)[1::3] = ignored
    return ids


def soft_of(shape, dtype=torch.float32, seed=2):
    """A distribution for each example."""
    axis = 0 if len(shape) == 1 else 1
    return logits_of(shape, torch.float64, seed).detach().softmax(axis).to(dtype)


def outcome(function, *tensors, **options):
    """Value and gradients, for a gradient of the value that is not the same everywhere."""
    tensors = [tensor.detach().clone().requires_grad_(tensor.requires_grad) for tensor in tensors]
    value = function(*tensors, **options)
    upstream = torch.linspace(0.5, 2, max(1, value.numel()), dtype=value.dtype)
    value.backward(upstream[: value.numel()].reshape(value.shape))
    return value.detach(), *(tensor.grad for tensor in tensors if tensor.requires_grad)


def assert_same(actual, expected, coarsest=torch.float64):
    """Same shapes and dtypes, and numbers within 16 roundings to theirs or the coarsest dtype."""
    for one, other in zip(actual, expected, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        rounding = max(HALF_ULP[one.dtype], HALF_ULP[coarsest])
        size = max(1.0, float(other.abs().nan_to_num().max())) if other.numel() else 1.0
        bounds = {"rtol": 16 * rounding, "atol": 16 * rounding * size}
        torch.testing.assert_close(one, other, equal_nan=True, **bounds)
