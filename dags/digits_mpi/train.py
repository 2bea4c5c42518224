"""Trains a linear reader of handwritten digits under plain MPI: a share of the digits each, and one all-reduce a step."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy
from mpi4py import MPI
from sklearn.datasets import load_digits

from muster.tracking import Run

HELD_BACK = 360  # of 1,797 digits; always the same ones


def digits() -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """Return images, with a 1 added for the bias, and labels to train on, then those held back."""
    images, labels = load_digits(return_X_y=True)
    order = numpy.random.default_rng(0).permutation(len(images))
    x = numpy.hstack([images[order] / 16.0, numpy.ones((len(images), 1))])
    y = labels[order]
    return x[HELD_BACK:], y[HELD_BACK:], x[:HELD_BACK], y[:HELD_BACK]


def gradient(weights: numpy.ndarray, x: numpy.ndarray, y: numpy.ndarray) -> tuple[float, numpy.ndarray]:
    """Return the sum of the loss over some digits, and its gradient."""
    scores = x @ weights
    odds = numpy.exp(scores - scores.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    rows = numpy.arange(len(y))
    loss = -numpy.log(odds[rows, y]).sum()
    odds[rows, y] -= 1
    return float(loss), x.T @ odds


def train(lr: float, steps: int) -> None:
    """Train; rank 0 logs, and keeps model and metrics below ./outputs."""
    world = MPI.COMM_WORLD
    rank, size = world.Get_rank(), world.Get_size()
    print(f"rank {rank} of {size} on {MPI.Get_processor_name()}", flush=True)
    x, y, held_x, held_y = digits()
    mine = slice(rank, None, size)
    weights = numpy.zeros((x.shape[1], 10))
    run = Run.get_context()

    for step in range(steps):
        loss, slope = gradient(weights, x[mine], y[mine])
        world.Allreduce(MPI.IN_PLACE, slope, op=MPI.SUM)
        weights -= lr * slope / len(x)
        if step % 50 == 49:
            loss = world.allreduce(loss) / len(x)
            score = float(numpy.mean((held_x @ weights).argmax(axis=1) == held_y))
            if rank == 0:
                run.log("loss", loss, step=step)
                run.log("accuracy", score, step=step)
                print(f"step {step}: loss {loss:.4f}, accuracy {score:.4f}", flush=True)

    print(f"weights {hashlib.sha256(weights.tobytes()).hexdigest()[:16]}", flush=True)
    if rank == 0:
        score = float(numpy.mean((held_x @ weights).argmax(axis=1) == held_y))
        outputs = Path("outputs")
        outputs.mkdir(exist_ok=True)
        numpy.save(outputs / "model.npy", weights)
        (outputs / "metrics.json").write_text(json.dumps({"accuracy": score, "steps": steps, "lr": lr, "ranks": size}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lr", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=500)
    given = parser.parse_args()
    train(given.lr, given.steps)
