"""Trains on handwritten digits with Horovod: every rank has a share of each batch, and the mean of all gradients."""

from __future__ import annotations

import argparse

import horovod.tensorflow as hvd
import tensorflow as tf
from digits import Network, accuracy, batches, digest, digits, keep

from muster.tracking import Run


def train(lr: float, epochs: int) -> None:
    """Train; rank 0 logs, and keeps model and metrics below ./outputs."""
    hvd.init()
    devices = tf.config.list_physical_devices("GPU")
    if devices:
        tf.config.set_visible_devices(devices[hvd.local_rank()], "GPU")
    print(f"rank {hvd.rank()} of {hvd.size()}", flush=True)
    x, y, held_x, held_y = digits()
    network = Network()
    hvd.broadcast_variables(network.weights, root_rank=0)

    def step(images: tf.Tensor, labels: tf.Tensor) -> float:
        with tf.GradientTape() as tape:
            loss = network.loss(images, labels)
        tape = hvd.DistributedGradientTape(tape)
        for weight, gradient in zip(network.weights, tape.gradient(loss, network.weights), strict=True):
            weight.assign_sub(lr * gradient)
        return float(loss)

    run = Run.get_context()
    for epoch in range(epochs):
        shares = [batch[hvd.rank() :: hvd.size()] for batch in batches(len(x), epoch)]
        losses = [step(tf.constant(x[mine]), tf.constant(y[mine])) for mine in shares]
        if hvd.rank() == 0:
            loss, score = sum(losses) / len(losses), accuracy(network, held_x, held_y)
            run.log("loss", loss, step=epoch)
            run.log("accuracy", score, step=epoch)
            print(f"epoch {epoch}: loss {loss:.4f}, accuracy {score:.4f}", flush=True)

    print(f"weights {digest(network)}", flush=True)
    if hvd.rank() == 0:
        keep(network, accuracy=accuracy(network, held_x, held_y), epochs=epochs, lr=lr, ranks=hvd.size())
    hvd.shutdown()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lr", type=float, default=0.3)
    parser.add_argument("--epochs", type=int, default=20)
    given = parser.parse_args()
    train(given.lr, given.epochs)
