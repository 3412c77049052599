"""Learns handwritten digits with Keras; start a server with `losswire serve` first.

One line is not Keras': where the loss is made, `losswire.keras` stands in place of `keras.losses`.
`KERAS_BACKEND` says whether TensorFlow, JAX or PyTorch computes the rest.
"""

import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import losswire.keras

keras.utils.set_random_seed(0)
pixels, labels = load_digits(return_X_y=True)
train_x, test_x, train_y, test_y = train_test_split(
    (pixels / 16).astype("float32"), labels, test_size=0.25, random_state=0
)

model = keras.Sequential([keras.layers.Dense(64, "relu"), keras.layers.Dense(10)])
model.compile(
    keras.optimizers.Adam(0.01),
    # in place of keras.losses.SparseCategoricalCrossentropy
    loss=losswire.keras.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
    jit_compile=keras.config.backend() == "jax",  # XLA of TensorFlow has no way out to a server
)
history = model.fit(train_x, train_y, batch_size=64, epochs=10, verbose=0).history

_, accuracy = model.evaluate(test_x, test_y, verbose=0)
print(f"loss {history['loss'][-1]:.4f}, test accuracy {accuracy:.4f}")
