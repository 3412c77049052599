"""Learns handwritten digits with JAX; start a server with `losswire serve` first.

One line is not optax's: the loss function comes from `losswire.jax`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import losswire.jax

loss_function = losswire.jax.softmax_cross_entropy_with_integer_labels  # was: optax.softmax_…

pixels, labels = load_digits(return_X_y=True)
train_x, test_x, train_y, test_y = train_test_split(
    (pixels / 16).astype(np.float32), labels, test_size=0.25, random_state=0
)
random = np.random.default_rng(0)
weights = {
    "hidden": jnp.asarray(random.normal(size=(64, 64)) / 8, jnp.float32),
    "out": jnp.asarray(random.normal(size=(64, 10)) / 8, jnp.float32),
}
optimizer = optax.adam(0.01)
state = optimizer.init(weights)


def model(weights, pixels):
    """Logits of ten digits."""
    return jax.nn.relu(pixels @ weights["hidden"]) @ weights["out"]


def mean_loss(weights, pixels, labels):
    """The loss of a batch."""
    return loss_function(model(weights, pixels), labels).mean()


@jax.jit
def step(weights, state, pixels, labels):
    """One step of training."""
    loss, gradient = jax.value_and_grad(mean_loss)(weights, pixels, labels)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(weights, updates), state, loss


for _ in range(10):
    order = random.permutation(len(train_x))
    for batch in np.split(order[: len(order) // 64 * 64], len(order) // 64):
        weights, state, loss = step(weights, state, train_x[batch], train_y[batch])

accuracy = (model(weights, test_x).argmax(1) == test_y).mean()
print(f"loss {loss:.4f}, test accuracy {accuracy:.4f}")
