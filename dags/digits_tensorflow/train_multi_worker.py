"""Trains on handwritten digits with MultiWorkerMirroredStrategy: every worker has all weights and a share of each batch."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys

import numpy
import tensorflow as tf
from digits import Network, accuracy, batches, digest, digits, keep

from muster.tracking import Run


def train(lr: float, epochs: int) -> None:
    """Train; the first worker logs, and keeps model and metrics below ./outputs."""
    print("TF_CONFIG", os.environ.get("TF_CONFIG", "is not set: a single task"), flush=True)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    resolver = strategy.cluster_resolver
    first = resolver.task_type == "chief" or ("chief" not in resolver.cluster_spec().jobs and not resolver.task_id)
    replicas = strategy.num_replicas_in_sync
    x, y, held_x, held_y = digits()
    with strategy.scope():
        network = Network()

    def step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = network.loss(images, labels)
        for weight, gradient in zip(network.weights, tape.gradient(loss, network.weights), strict=True):
            weight.assign_sub(lr * gradient)
        return loss

    @tf.function
    def step_of_all(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return strategy.reduce("mean", strategy.run(step, args=(images, labels)), axis=None)

    def share(values: numpy.ndarray) -> tf.Tensor:
        """Return every replica its part of a batch."""
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(values[context.replica_id_in_sync_group :: replicas])
        )

    run = Run.get_context()
    for epoch in range(epochs):
        losses = [step_of_all(share(x[batch]), share(y[batch])) for batch in batches(len(x), epoch)]
        if first:
            loss, score = float(numpy.mean(losses)), accuracy(network, held_x, held_y)
            run.log("loss", loss, step=epoch)
            run.log("accuracy", score, step=epoch)
            print(f"epoch {epoch}: loss {loss:.4f}, accuracy {score:.4f}", flush=True)

    print(f"weights {digest(network)}", flush=True)
    if first:
        keep(network, accuracy=accuracy(network, held_x, held_y), epochs=epochs, lr=lr, replicas=replicas)
    # one more step, and nobody leaves while another still needs him; whoever leaves first cuts the others' short
    with contextlib.suppress(tf.errors.OpError):
        step_of_all(share(x), share(y))
    sys.stdout.flush()
    os._exit(0)  # all is written; left the ordinary way, a worker may stumble over those that have left


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lr", type=float, default=0.3)
    parser.add_argument("--epochs", type=int, default=20)
    given = parser.parse_args()
    train(given.lr, given.epochs)
