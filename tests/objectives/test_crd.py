from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reference import adapter_oracles as oracles
from temperance.errors import UserError
from temperance.objectives import attach
from temperance.objectives.crd import CRD, noise_contrastive_loss
from temperance.rows import Rows, Signal

RNG = np.random.default_rng(7)
IDS = torch.tensor([70, -3, 2**40, 12, 5, 900, 31, 8])  # of the training set, in its order
TARGETS = torch.tensor([0, 1, 1, 0, 2, 1, 0, 2])
TAP = "1:in"


def network(units: int) -> nn.Module:
    return nn.Sequential(nn.Linear(4, units), nn.Linear(units, 3))


def built(*, targets: Tensor | None = TARGETS, ids: Tensor = IDS, **settings: Any) -> CRD:
    torch.manual_seed(0)
    crd = CRD(None, **{"embedding_size": 6, **settings})
    attach(crd, network(5), network(7), torch.zeros(2, 4), ids=ids, targets=targets)
    return crd.double()


def batch(ids: list[int]) -> tuple[Signal, Signal, Rows]:
    draw = np.random.default_rng(len(ids))
    own, others = (torch.tensor(draw.normal(size=(len(ids), n))) for n in (5, 7))
    logits = torch.zeros(len(ids), 3, dtype=torch.float64)
    student, teacher = (Signal(logits, features={TAP: x}) for x in (own, others))
    return student, teacher, Rows(None, torch.tensor(ids))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def embeddings(crd: CRD, student: Signal, teacher: Signal) -> list[np.ndarray]:
    """Of student and teacher."""
    with torch.no_grad():
        own = crd.student_embedding(student.features[TAP])
        others = crd.teacher_embedding(teacher.features[TAP])
    return [unit(own.numpy()), unit(others.numpy())]


def memories(crd: CRD) -> list[np.ndarray]:
    """Of student and teacher, by id."""
    return [memory.numpy().copy() for memory in (crd.student_memory, crd.teacher_memory)]


def place(crd: CRD, sample: int) -> int:
    return crd.sample_ids.tolist().index(sample)


@pytest.mark.parametrize("negatives", [1, 2, 30])
@pytest.mark.parametrize("z", [0.3, 1.0, 50.0])
def test_it_is_noise_contrastive_estimation(negatives: int, z: float) -> None:
    scores = RNG.normal(scale=3, size=(4, negatives + 1))
    found = noise_contrastive_loss(torch.tensor(scores), log_partition=math.log(z), samples=100)
    expected = [oracles.contrast(row[0], row[1:], z, 100) for row in scores]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_golden() -> None:
    """The recipe's K and M: a critic that knows nothing yet, −log(1/(K+1)) − K log(K/(K+1))."""
    k, m = 16384, 50000
    scores = torch.zeros(1, k + 1, dtype=torch.float64)
    found = noise_contrastive_loss(scores, log_partition=math.log(m), samples=m)
    assert float(found) == pytest.approx(math.log(k + 1) + k * math.log((k + 1) / k), rel=1e-12)
    assert float(found) == pytest.approx(10.704091, abs=1e-6)


def test_gradient_is_that_of_the_value() -> None:
    scores = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: noise_contrastive_loss(x, log_partition=0.5, samples=9), (scores,)
    )


def test_extreme_scores_are_finite() -> None:
    scores = torch.tensor([[1e4, -1e4, 1e4], [-1e4, 1e4, -1e4]], requires_grad=True)
    loss = noise_contrastive_loss(scores, log_partition=0.0, samples=10)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("normalisation", ["first_batch", "none"])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_both_sides_are_contrasted_with_the_other_memory(
    normalisation: str, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    crd = built(normalisation=normalisation, critic_temperature=temperature, weight=0.5)
    student, teacher, rows = batch([12, 2**40])
    own, others = embeddings(crd, student, teacher)
    student_memory, teacher_memory = memories(crd)
    positions = [place(crd, 12), place(crd, 2**40)]
    negatives = [[place(crd, i) for i in ids] for ids in ([5, -3, -3], [70, 8, 5])]
    monkeypatch.setattr(crd, "_draw", lambda _: torch.tensor(negatives))
    found = crd(student, teacher, rows, 0.0)["crd"]

    expected = 0.0
    for anchors, memory in ((own, teacher_memory), (others, student_memory)):
        scores = [
            [float(anchors[i] @ memory[j]) / temperature for j in (positions[i], *negatives[i])]
            for i in range(2)
        ]
        z = len(IDS) * np.exp(scores).mean() if normalisation == "first_batch" else 1.0
        expected += sum(oracles.contrast(row[0], row[1:], z, len(IDS)) for row in scores) / 2
    np.testing.assert_allclose(float(found.detach()), 0.5 * expected, rtol=1e-6)


def test_negatives_have_other_labels_and_are_equally_likely() -> None:
    crd = built(negatives=5)
    label = dict(zip(IDS.tolist(), TARGETS.tolist(), strict=True))
    positions = crd._positions(IDS)
    drawn = torch.stack([crd._draw(positions) for _ in range(400)])
    assert drawn.shape == (400, 8, 5)
    for row, sample in enumerate(IDS.tolist()):
        seen, count = np.unique(crd.sample_ids[drawn[:, row]].numpy(), return_counts=True)
        assert set(seen) == {other for other in label if label[other] != label[sample]}
        expected = 2000 / len(seen)
        assert ((count - expected) ** 2 / expected).sum() < 30  # χ² of 5 or fewer degrees


def test_without_labels_negatives_are_all_other_samples() -> None:
    crd = built(targets=None)
    assert crd.negatives == 7
    drawn = crd._draw(crd._positions(IDS.repeat(50)))
    for row, sample in enumerate(IDS.tolist()):
        assert set(crd.sample_ids[drawn[row::8]].unique().tolist()) == set(IDS.tolist()) - {sample}


def test_there_are_no_more_negatives_than_samples_of_other_labels() -> None:
    assert built().negatives == 5  # the largest class has 3 of 8
    assert built(negatives=2).negatives == 2


def test_draws_follow_the_seed_of_the_cpu() -> None:
    crd = built()
    positions = crd._positions(IDS)
    torch.manual_seed(3)
    one = crd._draw(positions)
    assert not torch.equal(one, crd._draw(positions))
    torch.manual_seed(3)
    assert torch.equal(one, crd._draw(positions))


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_memories_follow_what_is_seen(momentum: float) -> None:
    crd = built(memory_momentum=momentum)
    student, teacher, rows = batch([900, 70])
    seen, before = embeddings(crd, student, teacher), memories(crd)
    crd(student, teacher, rows, 0.0)
    for new, old, after in zip(seen, before, memories(crd), strict=True):
        for row, sample in enumerate((900, 70)):
            i = place(crd, sample)
            expected = unit((momentum * old[i] + (1 - momentum) * new[row])[None])[0]
            np.testing.assert_allclose(after[i], expected, rtol=1e-9)
        untouched = [place(crd, i) for i in IDS.tolist() if i not in (900, 70)]
        np.testing.assert_array_equal(after[untouched], old[untouched])


def test_two_views_of_a_sample_are_remembered_by_their_mean() -> None:
    crd = built()
    student, teacher, rows = batch([900, 70, 900])
    seen, before = embeddings(crd, student, teacher), memories(crd)
    crd(student, teacher, rows, 0.0)
    i = place(crd, 900)
    for new, old, after in zip(seen, before, memories(crd), strict=True):
        expected = unit((0.5 * old[i] + 0.25 * (new[0] + new[2]))[None])[0]
        np.testing.assert_allclose(after[i], expected, rtol=1e-9)


def test_evaluation_remembers_nothing() -> None:
    crd = built().eval()
    before = {name: value.clone() for name, value in crd.state_dict().items()}
    loss = crd(*batch([5, 8]), 0.0)["crd"]
    assert torch.isfinite(loss)
    for name, value in crd.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)


def test_the_partition_is_that_of_the_first_batch() -> None:
    crd = built()
    assert crd.log_partition.isnan().all()
    crd(*batch([5, 8]), 0.0)
    first = crd.log_partition.clone()
    crd(*batch([70, -3, 12]), 0.0)
    assert first.isfinite().all()
    assert torch.equal(crd.log_partition, first)


def test_a_backward_pass_may_come_after_the_memories_moved() -> None:
    """As with accumulated gradients; and its gradient is that of the memories as they were."""
    gradients = []
    for moved in (False, True):
        crd = built()
        student, teacher, rows = batch([5, 8])
        embedding = student.features[TAP].requires_grad_()
        torch.manual_seed(1)
        loss = crd(student, teacher, rows, 0.0)["crd"]
        if moved:
            crd(*batch([5, 8, 70]), 0.0)
        loss.backward()
        assert embedding.grad is not None
        gradients.append(embedding.grad)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


def test_a_checkpoint_continues_exactly() -> None:
    crd = built()
    crd(*batch([5, 8]), 0.0)
    state = {name: value.clone() for name, value in crd.state_dict().items()}
    random = torch.get_rng_state()
    expected = [float(crd(*batch(ids), 0.0)["crd"].detach()) for ids in ([5, 70], [12, -3, 8])]

    resumed = CRD(embedding_size=6)
    attach(resumed, network(5), network(7), torch.zeros(2, 4), ids=IDS, targets=TARGETS, seed=9)
    resumed.double().load_state_dict(state)
    torch.set_rng_state(random)
    found = [float(resumed(*batch(ids), 0.0)["crd"].detach()) for ids in ([5, 70], [12, -3, 8])]
    assert found == expected


def test_what_is_learned_and_what_is_stored() -> None:
    crd = built()
    assert {name.split(".")[0] for name, _ in crd.named_parameters()} == {
        "student_embedding",
        "teacher_embedding",
    }
    assert {"student_memory", "teacher_memory", "log_partition"} <= set(crd.state_dict())
    length = torch.linalg.vector_norm(built(embedding_size=3000).student_memory, dim=1)
    torch.testing.assert_close(length, torch.ones_like(length), rtol=0.1, atol=0)


def test_a_student_that_follows_its_teacher_is_told_apart() -> None:
    """The loss falls when it is minimised, below that of a critic that guesses."""
    crd = built(targets=None, embedding_size=16)
    inputs = torch.tensor(RNG.normal(size=(8, 7)))
    logits = torch.zeros(8, 3, dtype=torch.float64)
    teacher = Signal(logits, features={TAP: inputs})
    student = Signal(logits, features={TAP: inputs[:, :5]})
    optimiser = torch.optim.Adam(crd.parameters(), lr=0.02)
    losses = []
    for _ in range(150):
        loss = crd(student, teacher, Rows(None, IDS), 0.0)["crd"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    guessing = 0.8 * 2 * (math.log(8) + 7 * math.log(8 / 7))
    assert np.mean(losses[-10:]) < 0.5 * guessing


def test_unknown_samples_are_refused() -> None:
    with pytest.raises(UserError, match="does not know sample 4, it remembers the 8"):
        built()(*batch([5, 4]), 0.0)
    with pytest.raises(UserError, match="does not know sample"):
        built()(*batch([2**50]), 0.0)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "there are 0 ids"),
        ([4], "there are 1 ids"),
        ([4, 9, 4], "there are 3 ids, some of them twice"),
    ],
)
def test_it_needs_the_ids_of_all_samples(ids: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        built(ids=torch.tensor(ids, dtype=torch.int64), targets=None)


def test_one_label_has_no_contrast() -> None:
    with pytest.raises(UserError, match="all have the same"):
        built(targets=torch.zeros(8, dtype=torch.int64))


TWO_PROCESSES = """
import sys
import torch
from torch import distributed, multiprocessing
from temperance.rows import Rows, Signal


def work(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/group", rank=rank, world_size=2)
    crd = torch.load(f"{folder}/crd.pt", weights_only=False)
    for step in torch.load(f"{folder}/steps.pt"):
        own, others, ids = step[rank]
        logits = torch.zeros(len(ids), 3)
        student, teacher = (Signal(logits, features={"1:in": x}) for x in (own, others))
        crd(student, teacher, Rows(None, ids), 0.0)
    torch.save(crd.state_dict(), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    multiprocessing.start_processes(work, (sys.argv[1],), nprocs=2, start_method="fork")
"""


def test_processes_remember_the_same(tmp_path: Path) -> None:
    script = tmp_path / "two_processes.py"
    script.write_text(TWO_PROCESSES)
    crd = built(negatives=1)
    torch.save(crd, tmp_path / "crd.pt")
    parts = [([5, 8, 70], [12]), ([900], [5, 31])]  # ids of both processes in two steps
    steps = [[batch(ids) for ids in step] for step in parts]
    given = [
        [(own.features[TAP], others.features[TAP], rows.ids) for own, others, rows in step]
        for step in steps
    ]
    torch.save(given, tmp_path / "steps.pt")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(script), str(tmp_path)]
    subprocess.run(command, check=True, env=environment, timeout=120)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    # What one process remembers that sees the same rows one part after the other, since no id
    # stands in both parts of a step.
    for step in steps:
        for part in step:
            crd(*part, 0.0)
    for name in ("student_memory", "teacher_memory"):
        torch.testing.assert_close(first[name], crd.state_dict()[name], rtol=1e-12, atol=0)
