"""Handwritten digits of scikit-learn, and a small network that learns to read them; shared by the scripts beside it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy
import tensorflow as tf
from sklearn.datasets import load_digits

HELD_BACK = 360  # of 1,797 digits; always the same ones
BATCH = 64  # over all tasks together
MODEL = Path("outputs/model.npz")


def digits() -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """Return images and labels to train on, then those held back."""
    images, labels = load_digits(return_X_y=True)
    order = numpy.random.default_rng(0).permutation(len(images))
    x, y = (images[order] / 16.0).astype("float32"), labels[order].astype("int64")
    return x[HELD_BACK:], y[HELD_BACK:], x[:HELD_BACK], y[:HELD_BACK]


def batches(count: int, epoch: int) -> list[numpy.ndarray]:
    """Return the indices of each batch of an epoch, the same for all tasks."""
    order = numpy.random.default_rng(epoch).permutation(count)
    return [order[start : start + BATCH] for start in range(0, count - BATCH + 1, BATCH)]


class Network(tf.Module):
    """Two layers, the same at first wherever they are made; a strategy averages what its replicas add to them."""

    def __init__(self) -> None:
        super().__init__()
        random = numpy.random.default_rng(0)
        self.weights = [
            tf.Variable(value.astype("float32"), aggregation=tf.VariableAggregation.MEAN)
            for value in (
                random.normal(0, 0.15, (64, 128)),
                numpy.zeros(128),
                random.normal(0, 0.1, (128, 10)),
                numpy.zeros(10),
            )
        ]

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        hidden, hidden_bias, last, last_bias = self.weights
        return tf.nn.relu(images @ hidden + hidden_bias) @ last + last_bias

    def loss(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Return the mean loss of some digits."""
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, self(images)))

    def values(self) -> list[numpy.ndarray]:
        """Return the weights as they are now."""
        return [weight.numpy() for weight in self.weights]


def accuracy(network: Network, images: numpy.ndarray, labels: numpy.ndarray) -> float:
    """Return the share of digits that the network reads rightly."""
    return float(numpy.mean(network(tf.constant(images)).numpy().argmax(axis=1) == labels))


def digest(network: Network) -> str:
    """Return a hash of the weights; the same on all ranks when training kept them in step."""
    return hashlib.sha256(b"".join(value.tobytes() for value in network.values())).hexdigest()[:16]


def keep(network: Network, **metrics: float) -> None:
    """Write model and metrics below ./outputs."""
    MODEL.parent.mkdir(exist_ok=True)
    numpy.savez(MODEL, *network.values())
    MODEL.with_name("metrics.json").write_text(json.dumps(metrics))
