"""One training step of every objective, on as many processes as it is told; run as a script.

    python two_processes.py PROCESSES FOLDER

Each process gets other rows, unequally many; the first writes the student and the objective after
the step to FOLDER/NAME.pt, and whether all processes ended with the same.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn, optim

from reference.objective_problems import VARIANTS, model
from temperance.models.features import Tapped, probe
from temperance.objectives import Pair, get_objective
from temperance.rows import Rows, Signal
from temperance.training import Engine, EngineArgs
from temperance.training.learner import Learner

N = 8


def step(name: str, engine: Engine, folder: Path) -> None:
    key, settings = VARIANTS[name]
    objective = get_objective(key, **settings)
    student, teacher = model(4, 1), model(6, 2)
    generator = torch.Generator().manual_seed(0)
    views = objective.needs.views
    images = torch.randint(0, 256, (views * N, 1, 8, 8), dtype=torch.uint8, generator=generator)
    ids = torch.arange(N)
    pair = Pair(probe(student, images), probe(teacher, images), ids=ids, targets=ids % 5)
    objective.build(pair, seed=3)
    if any(isinstance(module, nn.BatchNorm2d) for module in objective.modules()):
        objective.eval()  # or an adapter's BatchNorm couples the rows of a process
    learner = Learner(Tapped(student, objective.student_taps), objective)
    state = engine.start(learner, optim.SGD(learner.parameters(), lr=0.1), steps=1)
    torch.manual_seed(5)

    share = torch.arange(N).tensor_split((3,))[engine.rank] if engine.world_size > 1 else ids
    stacked = torch.cat([share + view * N for view in range(views)])
    rows = Rows(
        targets=share.repeat(views) % 5,
        ids=share.repeat(views),
        weights=1.0 + share.repeat(views),
        views=views,
    )
    with torch.no_grad():
        said = Tapped(teacher, objective.teacher_taps)(images[stacked])
    logits, features = state.module(images[stacked])
    losses = objective(
        Signal(logits, features=features), Signal(said[0], features=said[1]), rows, 0.5
    )
    engine.backward(state, losses, rows, engine.weigh(rows))
    engine.update(state, 0.1)

    after = torch.cat([tensor.detach().flatten().double() for tensor in learner.parameters()])
    everyone = engine.fabric.all_gather(after).reshape(engine.world_size, -1)
    if engine.rank == 0:
        same = bool((everyone == everyone[0]).all())
        torch.save({"after": after, "same": same}, folder / f"{name}.pt")
    engine.barrier()


if __name__ == "__main__":
    engine = Engine(EngineArgs(accelerator="cpu", devices=int(sys.argv[1]), threads=1))
    for every in VARIANTS:
        step(every, engine, Path(sys.argv[2]))
