"""What every objective promises, over the whole list: a new one is tested when it is listed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import yaml
from pydantic import TypeAdapter
from torch import Tensor

from reference.objective_problems import VARIANTS, Problem, problem, rows_taken, taken
from temperance.config import to_yaml
from temperance.errors import UserError
from temperance.objectives import OBJECTIVES, ObjectiveArgs, get_objective, list_objectives
from temperance.rows import Rows, Signal, TopK
from temperance.training import Engine, EngineArgs
from temperance.training.engine import TrainingState

NAMES = list(VARIANTS)
OBJECTIVE = {name: get_objective(key, **settings) for name, (key, settings) in VARIANTS.items()}
ROW_WISE = [name for name in NAMES if OBJECTIVE[name].row_wise]
TAUGHT = [name for name in NAMES if name != "labels"]
HEARING = [name for name in NAMES if OBJECTIVE[name].needs.logits != "none"]
DENSE = [name for name in NAMES if OBJECTIVE[name].needs.logits == "dense"]
SOFTENING = [name for name in OBJECTIVES if "softening" in OBJECTIVES[name].args_class.model_fields]


# Their row weights or softenings depend on the student and are constants to the gradient, by the
# papers' definition; their own tests compare gradients with the equations.
STOPPED = {"wsld", "cist"}


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack([loss.mean() for loss in losses.values()]).sum()


def tensors(given: Problem) -> list[Tensor]:
    signals = [given.student, given.teacher]
    found = [tensor for s in signals for tensor in (s.logits, *s.features.values())]
    return [*found, given.rows.targets, given.rows.ids]


# Declarations.


def test_the_list_is_the_objectives() -> None:
    assert list_objectives() == sorted(OBJECTIVES)
    for name, objective in OBJECTIVES.items():
        assert objective.name == name == objective.args_class.model_fields["name"].default


@pytest.mark.parametrize("name", NAMES)
def test_it_declares_itself(name: str) -> None:
    objective = OBJECTIVE[name]
    assert objective.teacher_logits in ("none", "used", "scale_invariant")
    assert isinstance(objective.row_wise, bool)
    assert objective.calibration
    assert (objective.teacher_logits != "none") <= (objective.needs.logits != "none")


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_every_setting_is_documented(name: str) -> None:
    fields = OBJECTIVES[name].args_class.model_fields
    assert not [key for key, field in fields.items() if key != "name" and not field.description]


@pytest.mark.parametrize("name", NAMES)
def test_settings_survive_yaml(name: str) -> None:
    args = OBJECTIVE[name].args
    stored = yaml.safe_load(to_yaml(args))
    assert TypeAdapter(ObjectiveArgs).validate_python(stored) == args


@pytest.mark.parametrize("name", SOFTENING)
@pytest.mark.parametrize("softening", [0, -1.0, float("nan")])
def test_the_softening_is_positive(name: str, softening: float) -> None:
    with pytest.raises(UserError, match="softening"):
        get_objective(name, softening=softening)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"there is no objective 'kdd'.*'kd'"):
        get_objective("kdd")


# Losses.


@pytest.mark.parametrize("name", NAMES)
def test_losses_have_the_declared_shape(name: str) -> None:
    given = problem(name)
    losses = given.losses()
    assert "labels" in losses
    n = len(given.student.logits)
    for key, loss in losses.items():
        assert loss.dtype == torch.float64, key
        assert torch.isfinite(loss).all(), key
        assert loss.shape == (n,) or (not given.objective.row_wise and loss.shape == ()), key


@pytest.mark.parametrize("name", NAMES)
def test_the_student_learns_and_the_teacher_does_not(name: str) -> None:
    given = problem(name)
    given.teacher.logits.requires_grad_()
    for feature in given.teacher.features.values():
        feature.requires_grad_()
    total(given.losses()).backward()
    for leaf in given.leaves():
        assert leaf.grad is not None
        assert leaf.grad.abs().max() > 0
    assert all(t.grad is None for t in (given.teacher.logits, *given.teacher.features.values()))
    # What learned nothing in a step would leave several processes waiting for its gradient.
    for key, parameter in given.objective.named_parameters():
        assert parameter.grad is not None, key


@pytest.mark.parametrize("name", [name for name in TAUGHT if name not in STOPPED])
def test_the_gradient_is_that_of_the_value(name: str) -> None:
    given = problem(name, n=4)
    given.losses()  # the first batch sets what is estimated from it
    given.objective.eval()  # memories stay as they are

    def value(*leaves: Tensor) -> Tensor:
        logits, *features = leaves
        taps = given.student.features
        student = Signal(logits, features=dict(zip(taps, features, strict=True)))
        return total(given.losses(student=student))

    assert torch.autograd.gradcheck(value, tuple(given.leaves()), fast_mode=True)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_was_given_is_changed(name: str) -> None:
    given = problem(name)
    before = [tensor.detach().clone() for tensor in tensors(given)]
    total(given.losses()).backward()
    assert all(torch.equal(a, b) for a, b in zip(before, tensors(given), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_the_same_twice(name: str) -> None:
    one, other = problem(name).losses(), problem(name).losses()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_holds_all_that_it_learned(name: str) -> None:
    """Losses after two batches are those of a fresh objective that loads its state."""
    used = problem(name)
    optimizer = torch.optim.SGD([*used.objective.parameters(), *used.leaves()], lr=0.01)
    total(used.losses()).backward()
    optimizer.step()
    again = problem(name)
    again.objective.load_state_dict(used.objective.state_dict())
    batch = {"student": used.student, "teacher": used.teacher, "rows": used.rows}
    expected, found = used.losses(**batch), again.losses(**batch)
    assert all(torch.equal(expected[key], found[key]) for key in expected)


# Row-wise ones: the engine weighs, splits and shares rows as it likes.


def with_statistics_fixed(given: Problem) -> Problem:
    """BatchNorm, the student's or an adapter's, is what couples rows; in eval mode it does not."""
    if any(isinstance(module, torch.nn.BatchNorm2d) for module in given.objective.modules()):
        given.losses()
        given.objective.eval()
    return given


@pytest.mark.parametrize("name", ROW_WISE)
def test_a_rows_loss_is_its_own(name: str) -> None:
    given = with_statistics_fixed(problem(name))
    together = given.losses()
    for row in range(len(given.student.logits)):
        chosen = torch.tensor([row])
        alone = given.losses(
            student=taken(given.student, chosen),
            teacher=taken(given.teacher, chosen),
            rows=rows_taken(given.rows, chosen),
        )
        for key in together:
            torch.testing.assert_close(alone[key][0], together[key][row], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ROW_WISE)
@pytest.mark.parametrize("weighted", [False, True])
def test_unequal_micro_batches_are_one_big_batch(name: str, weighted: bool) -> None:
    engine = Engine(EngineArgs(accelerator="cpu", threads=1))
    gradients, sums = [], []
    for cuts in ((), (1, 4)):
        given = with_statistics_fixed(problem(name))
        n = len(given.student.logits)
        weights = torch.arange(n, dtype=torch.float64) if weighted else None
        rows = replace(given.rows, weights=weights)
        idle = torch.nn.Linear(1, 1)
        state: TrainingState = engine.start(idle, torch.optim.SGD(idle.parameters(), lr=1.0), 1)
        for chosen in torch.arange(n).tensor_split(cuts):
            part = rows_taken(rows, chosen)
            losses = given.losses(
                student=taken(given.student, chosen),
                teacher=taken(given.teacher, chosen),
                rows=part,
            )
            engine.backward(state, losses, part, engine.weigh(rows))
        learned = [*given.leaves(), *given.objective.parameters()]
        gradients.append([tensor.grad for tensor in learned])
        sums.append({key: float(value) for key, value in engine.update(state, 0.1).items()})
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    assert sums[0] == pytest.approx(sums[1], rel=1e-9)


# Numbers that overflow, cancel or vanish.


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite(name: str, dtype: torch.dtype) -> None:
    given = problem(name, scale=10.0, dtype=torch.float32)
    leaves = [leaf.detach().to(dtype).requires_grad_() for leaf in given.leaves()]
    features = dict(zip(given.student.features, leaves[1:], strict=True))
    halved = {tap: feature.to(dtype) for tap, feature in given.teacher.features.items()}
    with torch.autocast("cpu", dtype):  # as the training loop does
        losses = given.losses(
            student=Signal(leaves[0], features=features),
            teacher=Signal(given.teacher.logits.to(dtype), features=halved),
        )
        total(losses).backward()
    assert all(
        torch.isfinite(loss).all() and loss.dtype == torch.float32 for loss in losses.values()
    )
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves)


@pytest.mark.parametrize("name", HEARING)
@pytest.mark.parametrize("who", ["student", "teacher", "both"])
def test_certainty_stays_finite(name: str, who: str) -> None:
    """Logits of some 1e4: probabilities are exactly 0 and 1, for the label and for others."""
    given = problem(name, dtype=torch.float32)
    logits = {
        side: (1e4 if who in (side, "both") else 1.0) * getattr(given, side).logits.detach()
        for side in ("student", "teacher")
    }
    student = replace(given.student, logits=logits["student"].requires_grad_())
    losses = given.losses(student=student, teacher=replace(given.teacher, logits=logits["teacher"]))
    total(losses).backward()
    assert all(torch.isfinite(loss).all() for loss in losses.values())
    assert torch.isfinite(student.logits.grad).all()


@pytest.mark.parametrize("name", TAUGHT)
def test_nothing_but_zeros_stays_finite(name: str) -> None:
    given = problem(name, dtype=torch.float32)
    for leaf in given.leaves():
        leaf.data.zero_()
    silent = {tap: torch.zeros_like(feature) for tap, feature in given.teacher.features.items()}
    teacher = Signal(torch.zeros_like(given.teacher.logits), features=silent)
    losses = given.losses(teacher=teacher)
    total(losses).backward()
    assert all(torch.isfinite(loss).all() for loss in losses.values())
    assert all(torch.isfinite(leaf.grad).all() for leaf in given.leaves())


# The teacher's temperature.


@pytest.mark.parametrize("name", TAUGHT)
@pytest.mark.parametrize("temperature", [0.5, 1.7, "by row"])
def test_scaling_the_teachers_logits_matters_as_declared(
    name: str, temperature: float | str
) -> None:
    given = problem(name)
    raw = given.teacher.logits
    if temperature == "by row":
        divisor: Tensor | float = torch.linspace(0.6, 3, len(raw), dtype=torch.float64)[:, None]
    else:
        divisor = float(temperature)
    calibrated = replace(given.teacher, logits=raw / divisor, raw_logits=raw)
    after = given.losses(teacher=calibrated)
    before = replace(problem(name), student=given.student).losses()  # of a fresh memory
    student = [torch.autograd.grad(total(losses), given.leaves()) for losses in (before, after)]
    declared = given.objective.teacher_logits
    if declared == "used":
        assert any(not torch.allclose(before[key], after[key], rtol=1e-3) for key in before)
        assert any(not torch.allclose(a, b, rtol=1e-3) for a, b in zip(*student, strict=True))
    else:
        tolerance = {"none": 0.0, "scale_invariant": 1e-6}[declared]
        for key in before:
            torch.testing.assert_close(after[key], before[key], rtol=tolerance, atol=tolerance)


# Bad input: one sentence that says what, where and how to mend it.


def refused(given: Problem, *words: str, **changes: object) -> None:
    with pytest.raises(UserError) as caught:
        given.losses(**changes)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert message.count("\n") == 0


def name_of(name: str) -> str:
    """What the message calls it; a sum complains as one of its parts."""
    return VARIANTS[name][0].partition("+")[0]


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_batch(name: str) -> None:
    given = problem(name)
    none = torch.arange(0)
    changes = {"student": taken(given.student, none), "teacher": taken(given.teacher, none)}
    refused(given, "empty", name_of(name), rows=rows_taken(given.rows, none), **changes)


@pytest.mark.parametrize("name", HEARING)
def test_a_teacher_of_other_classes_or_rows(name: str) -> None:
    given = problem(name)
    n = len(given.student.logits)
    wider = torch.zeros(n, 7, dtype=torch.float64)
    refused(given, "7", "5", name_of(name), teacher=replace(given.teacher, logits=wider))
    if n > 1:
        shorter = given.teacher.logits[1:]
        refused(given, str(n - 1), str(n), teacher=replace(given.teacher, logits=shorter))


@pytest.mark.parametrize("name", TAUGHT)
def test_no_teacher(name: str) -> None:
    refused(problem(name), "needs a teacher", name_of(name), teacher=None)


@pytest.mark.parametrize("name", DENSE)
def test_a_sparse_signal_for_a_dense_method(name: str) -> None:
    given = problem(name)
    values, indices = given.teacher.logits.topk(2)
    sparse = TopK(indices, given.teacher.logits.logsumexp(1), classes=5)
    teacher = replace(given.teacher, logits=values, top_k=sparse)
    refused(given, "all classes", "2", "dense", teacher=teacher)


@pytest.mark.parametrize("name", [name for name in NAMES if problem(name).objective.student_taps])
def test_features_that_are_not_there(name: str) -> None:
    given = problem(name)
    refused(given, "no feature", student=replace(given.student, features={"other": torch.ones(6)}))
    refused(given, "no feature", "teacher", teacher=replace(given.teacher, features={}))


@pytest.mark.parametrize("name", NAMES)
def test_targets_that_do_not_fit(name: str) -> None:
    given = problem(name)
    needs, n = given.objective.needs, len(given.student.logits)
    refused(given, "targets", rows=replace(given.rows, targets=given.rows.targets[1:]))
    without = replace(given.rows, targets=None)
    if needs.targets == "required":
        refused(given, "labels", rows=without)
    else:
        assert "labels" not in given.losses(rows=without)
    soft = torch.full((n, 5), 0.2, dtype=torch.float64)
    if needs.soft_targets:
        assert all(
            torch.isfinite(x).all()
            for x in given.losses(rows=replace(given.rows, targets=soft)).values()
        )
        refused(given, "soft targets", rows=replace(given.rows, targets=soft[:, 1:]))
    else:
        refused(given, "class indices", rows=replace(given.rows, targets=soft))


def test_views_that_are_not_there() -> None:
    for name in NAMES:
        given = problem(name)
        if given.objective.needs.views > 1:
            refused(given, "views", rows=replace(given.rows, views=1))


def test_rows_need_no_teacher_where_there_is_none_to_need() -> None:
    given = problem("labels")
    assert set(given.losses(teacher=None)) == {"labels"}
    assert isinstance(given.rows, Rows)
