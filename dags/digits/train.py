"""Trains a small network on scikit-learn's handwritten digits with PyTorch's DistributedDataParallel, on any number of ranks.

``--evaluate MODEL`` prints the accuracy of a kept model on the held-back digits instead.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path

import numpy
import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from muster.tracking import Run

HELD_BACK = 360  # of 1,797 digits; always the same ones
BATCH = 64  # over all ranks together
CHECKPOINT = Path("checkpoints/last.pt")


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return images and labels to train on, then those held back."""
    images, labels = load_digits(return_X_y=True)
    order = numpy.random.default_rng(0).permutation(len(images))
    x = torch.tensor(images[order] / 16.0, dtype=torch.float32)
    y = torch.tensor(labels[order], dtype=torch.long)
    return x[HELD_BACK:], y[HELD_BACK:], x[:HELD_BACK], y[:HELD_BACK]


def network() -> nn.Sequential:
    """Return the untrained network, the same on every rank."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the share of digits that the model reads rightly."""
    model.eval()
    with torch.no_grad():
        return (model(x).argmax(dim=1) == y).float().mean().item()


def digest(model: nn.Module) -> str:
    """Return a hash of the weights; the same on all ranks when training kept them in step."""
    state = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        state.update(name.encode() + value.cpu().numpy().tobytes())
    return state.hexdigest()[:16]


def save(path: Path, content: object) -> None:
    """Write a file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    torch.save(content, beside)
    os.replace(beside, path)


def resume(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Resume from the checkpoint that an earlier attempt left, as rank 0 has it; return the first epoch to train."""
    found = [torch.load(CHECKPOINT, map_location="cpu") if dist.get_rank() == 0 and CHECKPOINT.exists() else None]
    dist.broadcast_object_list(found)
    if found[0] is None:
        return 0
    model.load_state_dict(found[0]["model"])
    optimizer.load_state_dict(found[0]["optimizer"])
    return int(found[0]["epoch"]) + 1


def pick_device() -> torch.device:
    """Return this rank's GPU, or the CPU where there is none."""
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
        return torch.device("cpu")
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return torch.device("cuda", torch.cuda.current_device())


def train(lr: float, epochs: int) -> None:
    """Train, and keep model and metrics below ./outputs."""
    device = pick_device()
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    x, y, held_x, held_y = (tensor.to(device) for tensor in digits())
    model = network().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    first = resume(model, optimizer)
    parallel = DistributedDataParallel(model)
    run = Run.get_context()

    for epoch in range(first, epochs):
        loss = train_epoch(parallel, optimizer, x, y, epoch=epoch)
        if rank == 0:
            score = accuracy(model, held_x, held_y)
            run.log("loss", loss, step=epoch)
            run.log("accuracy", score, step=epoch)
            print(f"epoch {epoch}: loss {loss:.4f}, accuracy {score:.4f}", flush=True)
            save(CHECKPOINT, {"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()})

    print(f"weights {digest(model)}", flush=True)
    if rank == 0:
        score = accuracy(model, held_x, held_y)
        save(Path("outputs/model.pt"), model.state_dict())
        Path("outputs/metrics.json").write_text(json.dumps({"accuracy": score, "epochs": epochs, "lr": lr, "ranks": world}))
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # all is written; left the ordinary way, a process is now and then aborted by torch's threads


def train_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, *, epoch: int) -> float:
    """Train once over the data, every rank over its share of each batch; return the mean loss of this rank."""
    model.train()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch)).to(x.device)
    losses = []
    for start in range(0, len(x) - BATCH + 1, BATCH):
        mine = order[start : start + BATCH][dist.get_rank() :: dist.get_world_size()]
        loss = nn.functional.cross_entropy(model(x[mine]), y[mine])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


def evaluate(path: Path) -> None:
    """Print the accuracy of a kept model on the held-back digits."""
    model = network()
    model.load_state_dict(torch.load(path, weights_only=True))
    _, _, x, y = digits()
    print(json.dumps({"accuracy": accuracy(model, x, y), "digits": len(y)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lr", type=float, default=0.003)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--evaluate", type=Path, metavar="MODEL")
    given = parser.parse_args()
    if given.evaluate is not None:
        evaluate(given.evaluate)
    else:
        train(given.lr, given.epochs)


if __name__ == "__main__":
    main()
