"""Learns handwritten digits with TensorFlow; start a server with `losswire serve` first.

One line is not TensorFlow's: the loss function comes from `losswire.tensorflow`.
"""

import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import losswire.tensorflow

# in place of tf.nn.sparse_softmax_cross_entropy_with_logits
loss_function = losswire.tensorflow.sparse_softmax_cross_entropy_with_logits

pixels, labels = load_digits(return_X_y=True)
parts = train_test_split(pixels / 16, labels, test_size=0.25, random_state=0)
train_x, test_x = (tf.constant(part, tf.float32) for part in parts[:2])
train_y, test_y = (tf.constant(part) for part in parts[2:])

random = tf.random.Generator.from_seed(0)
hidden = tf.Variable(random.normal([64, 64]) / 8)
out = tf.Variable(random.normal([64, 10]) / 8)
optimizer = tf.keras.optimizers.Adam(0.01)
optimizer.build([hidden, out])


def model(pixels):
    """Logits of ten digits."""
    return tf.nn.relu(pixels @ hidden) @ out


@tf.function
def step(pixels, labels):
    """One step of training."""
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(loss_function(labels, model(pixels)))
    hidden_gradient, out_gradient = tape.gradient(loss, [hidden, out])
    optimizer.apply_gradients([(hidden_gradient, hidden), (out_gradient, out)])
    return loss


batches = tf.data.Dataset.from_tensor_slices((train_x, train_y)).shuffle(2048, seed=0).batch(64)
for _ in range(10):
    for batch_x, batch_y in batches:
        loss = step(batch_x, batch_y)

accuracy = tf.reduce_mean(tf.cast(tf.argmax(model(test_x), 1) == test_y, tf.float32))
print(f"loss {loss:.4f}, test accuracy {accuracy:.4f}")
