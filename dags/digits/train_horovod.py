"""Trains the network of ``train.py`` with Horovod: every rank has a share of each batch, and the mean of all gradients."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import horovod.torch as hvd
import torch
from train import BATCH, CHECKPOINT, accuracy, digest, digits, network, save

from muster.tracking import Run


def pick_device() -> torch.device:
    """Return this rank's GPU, or the CPU where there is none."""
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
        return torch.device("cpu")
    torch.cuda.set_device(hvd.local_rank())
    return torch.device("cuda", torch.cuda.current_device())


def resume(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Resume from the checkpoint that an earlier attempt left, as rank 0 has it; return the first epoch to train."""
    first = 0
    if hvd.rank() == 0 and CHECKPOINT.exists():
        found = torch.load(CHECKPOINT, map_location="cpu")
        model.load_state_dict(found["model"])
        optimizer.load_state_dict(found["optimizer"])
        first = int(found["epoch"]) + 1
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    hvd.broadcast_optimizer_state(optimizer, root_rank=0)
    return int(hvd.broadcast(torch.tensor(first), root_rank=0))


def train(lr: float, epochs: int) -> None:
    """Train; rank 0 logs, and keeps model and metrics below ./outputs."""
    hvd.init()
    rank, size = hvd.rank(), hvd.size()
    print(f"rank {rank} of {size}", flush=True)
    device = pick_device()
    x, y, held_x, held_y = (tensor.to(device) for tensor in digits())
    model = network().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    first = resume(model, optimizer)
    optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())
    run = Run.get_context()

    for epoch in range(first, epochs):
        model.train()
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch)).to(device)
        for start in range(0, len(x) - BATCH + 1, BATCH):
            mine = order[start : start + BATCH][rank::size]
            loss = torch.nn.functional.cross_entropy(model(x[mine]), y[mine])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if rank == 0:
            score = accuracy(model, held_x, held_y)
            run.log("loss", loss.item(), step=epoch)
            run.log("accuracy", score, step=epoch)
            print(f"epoch {epoch}: loss {loss.item():.4f}, accuracy {score:.4f}", flush=True)
            save(CHECKPOINT, {"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()})

    print(f"weights {digest(model)}", flush=True)
    if rank == 0:
        score = accuracy(model, held_x, held_y)
        save(Path("outputs/model.pt"), model.state_dict())
        Path("outputs/metrics.json").write_text(json.dumps({"accuracy": score, "epochs": epochs, "lr": lr, "ranks": size}))
    hvd.shutdown()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lr", type=float, default=0.003)
    parser.add_argument("--epochs", type=int, default=20)
    given = parser.parse_args()
    train(given.lr, given.epochs)
