from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn, optim

from temperance.errors import UserError
from temperance.rows import Rows
from temperance.training import Engine, EngineArgs
from temperance.training.engine import TrainingState

INPUTS = np.random.default_rng(0).normal(size=(5, 3))
START = np.array([0.5, -1.0, 2.0])


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(EngineArgs(accelerator="cpu", threads=1))


def start(engine: Engine, *, out: int = 1, steps: int = 10, momentum: float = 0) -> TrainingState:
    """A linear model without bias, in float64, at the same weights every time."""
    model = nn.Linear(3, out, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor(START).expand(out, 3))
    return engine.start(model, optim.SGD(model.parameters(), lr=1.0, momentum=momentum), steps)


def step(engine: Engine, state: TrainingState, weights: list[float] | None, rate: float = 0.1):
    """One step on squared outputs and their doubles; the losses that it reports."""
    squares = state.module(torch.tensor(INPUTS))[:, 0] ** 2
    given = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    rows = Rows(targets=None, ids=torch.arange(5), weights=given)
    engine.backward(state, {"one": squares, "two": 2 * squares}, rows, engine.weigh(rows))
    return engine.update(state, rate)


@pytest.mark.parametrize(
    "weights", [None, [1.0] * 5, [1.0, 2.0, 0.0, 0.5, 10.0], [1e-3, 0.0, 0.0, 0.0, 0.0]]
)
def test_a_step_is_that_of_the_weighted_mean(engine: Engine, weights: list[float] | None) -> None:
    state = start(engine)
    losses = step(engine, state, weights)

    share = np.ones(5) if weights is None else np.array(weights)
    outputs = INPUTS @ START
    mean = (share * outputs**2).sum() / share.sum()
    gradient = 3 * (share[:, None] * 2 * outputs[:, None] * INPUTS).sum(0) / share.sum()
    assert float(losses["one"]) == pytest.approx(mean)
    assert float(losses["two"]) == pytest.approx(2 * mean)
    (found,) = state.module.parameters()
    np.testing.assert_allclose(found.detach()[0], START - 0.1 * gradient)


def test_only_the_ratio_of_the_weights_counts(engine: Engine) -> None:
    found = []
    for weights in ([1.0, 2.0, 3.0, 4.0, 5.0], [10.0, 20.0, 30.0, 40.0, 50.0]):
        state = start(engine)
        step(engine, state, weights)
        found.append(next(state.module.parameters()).detach().clone())
    torch.testing.assert_close(*found)


def test_losses_over_the_batch_are_taken_as_they_are(engine: Engine) -> None:
    state = start(engine)
    weight = next(state.module.parameters())
    rows = Rows(targets=None, ids=torch.arange(5), weights=torch.arange(5.0))
    engine.backward(state, {"norm": (weight**2).sum()}, rows, engine.weigh(rows))
    losses = engine.update(state, 0.25)
    assert float(losses["norm"]) == pytest.approx((START**2).sum())
    np.testing.assert_allclose(weight.detach()[0], START / 2)


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.0, 0.5, 10.0]])
@pytest.mark.parametrize("cuts", [(1,), (2, 3), (1, 2, 3, 4)])
def test_unequal_parts_make_the_step_of_the_whole(
    engine: Engine, weights: list[float] | None, cuts: tuple[int, ...]
) -> None:
    whole, parts = start(engine), start(engine)
    expected = step(engine, whole, weights)

    given = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    size = engine.weigh(Rows(targets=None, ids=torch.arange(5), weights=given))
    for part in np.split(np.arange(5), cuts):
        squares = parts.module(torch.tensor(INPUTS[part]))[:, 0] ** 2
        chosen = None if given is None else given[torch.tensor(part)]
        rows = Rows(targets=None, ids=torch.tensor(part), weights=chosen)
        with engine.accumulating(parts, last=part[-1] == 4):
            engine.backward(parts, {"one": squares, "two": 2 * squares}, rows, size)
    found = engine.update(parts, 0.1)
    assert found.keys() == expected.keys()
    for name in expected:
        assert float(found[name]) == pytest.approx(float(expected[name]), rel=1e-12)
    one, other = (next(state.module.parameters()) for state in (whole, parts))
    torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


def test_scalars_are_averaged_over_parts_by_their_rows(engine: Engine) -> None:
    state = start(engine)
    weight = next(state.module.parameters())
    size = engine.weigh(Rows(targets=None, ids=torch.arange(5)))
    for n, factor in ((3, 1.0), (2, 6.0)):
        loss = {"scaled": factor * weight.sum()}
        engine.backward(state, loss, Rows(targets=None, ids=torch.arange(n)), size)
    losses = engine.update(state, 0.1)
    assert float(losses["scaled"]) == pytest.approx((0.6 * 1 + 0.4 * 6) * START.sum())


def test_a_step_leaves_nothing_to_the_next(engine: Engine) -> None:
    state = start(engine)
    losses = step(engine, state, None)
    assert state.step == 1
    assert state.progress == 0.1
    assert not any(loss.requires_grad for loss in losses.values())
    assert all(p.grad is None or not p.grad.any() for p in state.module.parameters())


def test_restored_is_saved(engine: Engine, tmp_path: Path) -> None:
    """Weights, momentum, step and random state: two more steps go the same way."""
    file = tmp_path / "last.pt"
    state = start(engine, momentum=0.9)
    step(engine, state, None)
    torch.manual_seed(3)
    engine.save(state, file)
    expected_random = torch.rand(3)
    step(engine, state, None)

    again = start(engine, momentum=0.9)
    engine.restore(again, file)
    assert again.step == 1
    assert torch.equal(torch.rand(3), expected_random)
    step(engine, again, None)
    for one, other in zip(state.module.parameters(), again.module.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("keep", [0, 10, -1, -200])
def test_a_truncated_checkpoint_is_refused(engine: Engine, tmp_path: Path, keep: int) -> None:
    file = tmp_path / "last.pt"
    engine.save(start(engine), file)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"last\.pt: is not a readable checkpoint"):
        engine.restore(start(engine), file)


def test_a_checkpoint_of_another_training_is_refused(engine: Engine, tmp_path: Path) -> None:
    engine.save(start(engine, steps=10), tmp_path / "last.pt")
    with pytest.raises(UserError, match=r"last\.pt: .*10 steps, not 20"):
        engine.restore(start(engine, steps=20), tmp_path / "last.pt")


def test_a_checkpoint_of_another_model_is_refused(engine: Engine, tmp_path: Path) -> None:
    engine.save(start(engine, out=1), tmp_path / "last.pt")
    with pytest.raises(UserError, match=r"last\.pt"):
        engine.restore(start(engine, out=2), tmp_path / "last.pt")


def test_no_code_is_run_from_a_checkpoint(engine: Engine, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "hacked",)  # type: ignore[return-value]

    torch.save({"module": Evil()}, tmp_path / "last.pt")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        engine.restore(start(engine), tmp_path / "last.pt")
    assert not (tmp_path / "hacked").exists()


def test_the_first_signal_asks_and_the_second_stops() -> None:
    engine = Engine(EngineArgs(accelerator="cpu", threads=1))
    before = signal.getsignal(signal.SIGINT)
    with engine.interruptible():
        signal.raise_signal(signal.SIGTERM)
        assert engine.interrupted
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_devices_that_are_not_there() -> None:
    if torch.cuda.is_available():
        pytest.skip("there are")
    with pytest.raises(UserError, match=r"engine: .*cuda.*engine\.accelerator"):
        Engine(EngineArgs(accelerator="cuda"))
