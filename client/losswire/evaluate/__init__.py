"""`losswire loss`: losses and gradients of tensors in files."""
