import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.calibration_problems import METRICS, WEIGHTED, problems
from temperance.calibration.metrics import brier_decomposition, chunks, ranked

few = settings(max_examples=20, deadline=None)  # every example goes through every metric
tight = {"rel": 1e-12, "abs": 1e-12}
smoothed = {"rel": 1e-12, "abs": 1e-8}  # the smooth error is a root, found to 1e-9


def close(name):
    return smoothed if name == "smooth_calibration_error" else tight


every_metric = pytest.mark.parametrize("name", METRICS)


@few
@given(problem=problems(), random=st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(problem, random):
    logits, targets, _ = problem
    order = list(range(len(targets)))
    random.shuffle(order)
    for name, metric in METRICS.items():
        value = metric.numbers(logits[order], targets[order])
        assert value == pytest.approx(metric.numbers(logits, targets), **close(name)), name


@few
@given(problem=problems(distinct=True), random=st.randoms(use_true_random=False))
def test_the_order_of_classes_does_not_matter(problem, random):
    # logits of a row differ: of equal ones the first is predicted
    logits, targets, _ = problem
    order = list(range(logits.shape[1]))
    random.shuffle(order)
    moved = logits[:, order], torch.tensor(order).argsort()[targets]
    for name, metric in METRICS.items():
        expected = metric.numbers(logits, targets)
        if metric.function is brier_decomposition:
            expected = expected.reshape(3, -1)[:, order].flatten()
        assert metric.numbers(*moved) == pytest.approx(expected, **close(name)), name


@few
@given(problem=problems(), shift=st.sampled_from([-64.0, -0.5, 16.0]))
def test_a_constant_added_to_a_row_does_not_matter(problem, shift):
    logits, targets, _ = problem
    shifted = logits.clone()
    shifted[::2] += shift
    for name, metric in METRICS.items():
        expected = metric.numbers(logits, targets)
        assert metric.numbers(shifted, targets) == pytest.approx(expected, **close(name)), name


@few
@given(problem=problems(soft=True), data=st.data())
def test_integer_weights_are_repeated_rows(problem, data):
    logits, targets, _ = problem
    times = data.draw(st.lists(st.integers(0, 3), min_size=len(targets), max_size=len(targets)))
    times[0] += 1
    times = torch.tensor(times)
    repeated = logits.repeat_interleave(times, 0), targets.repeat_interleave(times, 0)
    for name, metric in WEIGHTED.items():
        if targets.ndim == 2 and not metric.soft:
            continue
        value = metric.numbers(logits, targets, 0.5 * times.float())
        assert value == pytest.approx(metric.numbers(*repeated), **close(name)), name


@every_metric
def test_chunks_do_not_change_the_values(monkeypatch, sampled, name):
    problem = sampled(rows=53, classes=5)
    whole = METRICS[name].numbers(*problem)
    monkeypatch.setattr(chunks, "CHUNK", 60)  # 12 rows at a time
    monkeypatch.setattr(ranked, "KEYS_AT_ONCE", 60)  # one class at a time
    monkeypatch.setattr(ranked, "LINE", 1)
    monkeypatch.setattr(ranked, "ROWS_AT_ONCE", 10)
    parts = METRICS[name].numbers(*problem)
    assert parts == pytest.approx(whole, rel=0, abs=1e-9 if "smooth" in name else 1e-14)


@every_metric
def test_threads_do_not_change_the_values(monkeypatch, sampled, name):
    problem = sampled(rows=53, classes=40)
    alone = METRICS[name].numbers(*problem)
    monkeypatch.setattr(ranked, "KEYS_AT_ONCE", 60)
    monkeypatch.setattr(ranked, "LINE", 1)  # 40 pieces of work
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        together = METRICS[name].numbers(*problem)
    finally:
        torch.set_num_threads(threads)
    assert together == pytest.approx(alone, rel=0, abs=1e-9 if "smooth" in name else 1e-14)


@every_metric
def test_logits_may_carry_a_gradient(sampled, name):
    logits, targets = sampled(rows=20)
    expected = METRICS[name].numbers(logits, targets)
    value = METRICS[name].numbers(logits.clone().requires_grad_(), targets)
    assert value.tolist() == expected.tolist()


@every_metric
def test_a_part_of_the_rows_is_a_problem_of_its_own(sampled, name):
    # strides, and rows of another chunk, do not leak in
    logits, targets = sampled(rows=90, classes=5)
    part = METRICS[name].numbers(logits[1::3], targets[1::3])
    alone = METRICS[name].numbers(logits[1::3].clone(), targets[1::3].clone())
    assert part.tolist() == alone.tolist()


@every_metric
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_is_widened_before_anything_else(sampled, name, dtype):
    logits, targets = sampled(dtype=dtype)
    narrow = METRICS[name].numbers(logits, targets)
    assert narrow.tolist() == METRICS[name].numbers(logits.double(), targets).tolist()


@every_metric
def test_the_input_is_left_as_it_was(sampled, name):
    logits, targets = sampled(rows=20)
    before = logits.clone(), targets.clone()
    METRICS[name].function(logits, targets)
    assert torch.equal(logits, before[0])
    assert torch.equal(targets, before[1])


@few
@given(problem=problems(weighted=True))
def test_ranges(problem):
    logits, targets, weights = problem
    for name, metric in METRICS.items():
        numbers = metric.numbers(logits, targets, *([weights] if metric.weighted else []))
        if name == "negative_log_likelihood":
            assert numbers >= 0
        elif name == "debiased_calibration_error":
            assert -1 <= numbers <= 1
        elif name == "brier_score":
            assert 0 <= numbers <= 2 + 1e-12
        elif name != "reliability_bins":  # counts
            assert min(numbers) >= -1e-12, name
            assert max(numbers) <= 1 + 1e-12, name
