"""Trains on handwritten digits with ParameterServerStrategy: servers hold the weights, workers compute, one task schedules.

That task is the chief. Where the cluster has none, worker 0 acts as it, as ``TF_CONFIG`` has always meant it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy
import tensorflow as tf
from digits import Network, accuracy, batches, digits, keep

from muster.tracking import Run

Jobs = dict[str, list[str]]


def cluster() -> tuple[Jobs, str, int]:
    """Return the cluster with a chief, and which task of it this process is."""
    config = json.loads(os.environ["TF_CONFIG"])
    jobs, kind, index = config["cluster"], config["task"]["type"], config["task"]["index"]
    if "chief" in jobs:
        return jobs, kind, index
    first, *others = jobs["worker"]
    if not others:
        sys.exit("one worker schedules and another one computes: set worker_count to 2 or more, or chief")
    if kind == "worker":
        kind, index = ("worker", index - 1) if index else ("chief", 0)
    return {**jobs, "chief": [first], "worker": others}, kind, index


def digest(network: Network, device: str) -> tf.Tensor:
    """Return a hash of the weights, computed on a device of any task."""
    with tf.device(device):
        parts = [tf.io.serialize_tensor(tf.identity(weight.read_value())) for weight in network.weights]
        return tf.strings.as_string(tf.strings.to_hash_bucket_strong(tf.strings.join(parts), 2**62, key=[1, 2]))


def mailbox(worker: int) -> str:
    """Name the file by which the chief tells a worker that all is done; relative to the worker's own folder."""
    return f"finished-{worker}"


def serve(jobs: Jobs, kind: str, index: int) -> None:
    """Do what the chief asks for. A server never ends by itself, a worker does when it is told the weights' hash."""
    server = tf.distribute.Server(tf.train.ClusterSpec(jobs), job_name=kind, task_index=index, protocol="grpc")
    if kind == "ps":
        server.join()
    told = Path(mailbox(index))
    while not (told.exists() and told.read_text()):
        time.sleep(0.1)
    print(f"weights {told.read_text()}", flush=True)
    time.sleep(1)  # the chief is still to hear that its file has been written


def train(jobs: Jobs, lr: float, epochs: int) -> None:
    """Schedule the steps, log, and keep model and metrics below ./outputs."""
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(jobs), task_type="chief", task_id=0, rpc_layer="grpc"
    )
    strategy = tf.distribute.ParameterServerStrategy(resolver)
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    x, y, held_x, held_y = digits()
    with strategy.scope():
        network = Network()

    @tf.function
    def step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = network.loss(images, labels)
        for weight, gradient in zip(network.weights, tape.gradient(loss, network.weights), strict=True):
            weight.assign_sub(lr * gradient)
        return loss

    run = Run.get_context()
    for epoch in range(epochs):
        scheduled = [coordinator.schedule(step, args=(x[batch], y[batch])) for batch in batches(len(x), epoch)]
        coordinator.join()
        loss, score = float(numpy.mean(coordinator.fetch(scheduled))), accuracy(network, held_x, held_y)
        run.log("loss", loss, step=epoch)
        run.log("accuracy", score, step=epoch)
        print(f"epoch {epoch}: loss {loss:.4f}, accuracy {score:.4f}", flush=True)

    keep(network, accuracy=accuracy(network, held_x, held_y), epochs=epochs, lr=lr, workers=len(jobs["worker"]))
    for worker in range(len(jobs["worker"])):
        device = f"/job:worker/replica:0/task:{worker}/device:CPU:0"
        with tf.device(device):
            tf.io.write_file(mailbox(worker), digest(network, device))
    print(f"weights {digest(network, '/job:chief/replica:0/task:0/device:CPU:0').numpy().decode()}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lr", type=float, default=0.3)
    parser.add_argument("--epochs", type=int, default=20)
    given = parser.parse_args()
    print("TF_CONFIG", os.environ["TF_CONFIG"], flush=True)
    everyone, task, number = cluster()
    if task == "chief":
        train(everyone, given.lr, given.epochs)
    else:
        serve(everyone, task, number)
    sys.stdout.flush()
    os._exit(0)  # all is written; left the ordinary way, a task waits for the threads of its own server
