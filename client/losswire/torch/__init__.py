"""PyTorch's cross-entropies, computed by a losswire server.

Functions and modules take the arguments of their namesakes in `torch.nn.functional` and `torch.nn`,
and a keyword `client`; None is `losswire.default_client()`. They work in eager mode, under
`torch.compile`, and on any device: the tensors travel over the CPU.

    _losses      the functions: arguments as PyTorch reads them
    _modules     the same as modules
    _checks      what PyTorch refuses, with the types of error that it raises
    _operators   the calls as operators of PyTorch, with their gradients
    _tensors     tensors as NumPy arrays and back
    _routes      which client an operator asks
"""

from losswire.torch._losses import binary_cross_entropy_with_logits, cross_entropy
from losswire.torch._modules import BCEWithLogitsLoss, CrossEntropyLoss

__all__ = [
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
]
