import math
import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from reference import calibration_oracles, streaming_oracles
from reference.calibration_problems import modest, problems
from temperance.calibration import metrics
from temperance.calibration.metrics.scores import score_rows
from temperance.calibration.metrics.smooth import ks_error_of, smooth_error_of
from temperance.calibration.streaming import CalibrationSums, LogGrid, TopLabelSums
from temperance.errors import UserError

ROOT = 2e-9  # how exactly the bandwidth of a smooth error is found
FEW = {"grid": 32, "class_grid": 32}  # cells, where they do not matter


def streamed(problem, cuts=(), **settings):
    """Sums over the rows of a problem, in batches that end at the cuts."""
    sums = CalibrationSums(problem[0].shape[1], **settings)
    add(sums, problem, cuts)
    return sums


def add(sums, problem, cuts=()):
    rows = len(problem[0])
    for start, end in pairwise([0, *sorted(cuts), rows]):
        if start < min(end, rows):
            sums.update(*(x if x is None else x[start:end] for x in problem))


def all_weighted(problem):
    """Batches of zero weights are refused, so no cut may make one."""
    return problem if problem[2] is None else (*problem[:2], problem[2] + 0.5)


def same(one, other, tolerance=1e-12):
    """Whether two reports say the same."""
    one, other = (
        np.hstack([np.array(value, dtype=np.float64) for value in numbers(report.to_dict())])
        for report in (one, other)
    )
    np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def numbers(record):
    """All values of a nested record, in order; None becomes NaN as an array of floats."""
    for value in record.values():
        yield from numbers(value) if isinstance(value, dict) else [value]


# What sums determine.


@modest
@given(problems(weighted=True), st.lists(st.integers(0, 25), max_size=3), st.integers(1, 20))
def test_sums_equal_the_one_shot_metrics(problem, cuts, n_bins):
    problem = all_weighted(problem)
    report = streamed(problem, cuts, n_bins=n_bins, **FEW).compute(k=2)
    ece = metrics.expected_calibration_error(*problem, n_bins=n_bins)
    expected = {
        "n": len(problem[0]),
        "classes": problem[0].shape[1],
        "k": 2,
        "accuracy": metrics.accuracy(*problem),
        "top_k_accuracy": metrics.top_k_accuracy(*problem, k=2),
        "nll": metrics.negative_log_likelihood(*problem),
        "brier": metrics.brier_score(*problem),
        "gap": ece.signed,
        "ece": ece.total,
        "ece_over": ece.over,
        "ece_under": ece.under,
        "mce": metrics.maximum_calibration_error(*problem, n_bins=n_bins),
        "rmsce": metrics.root_mean_square_calibration_error(*problem, n_bins=n_bins),
        "classwise_ece": metrics.classwise_calibration_error(*problem, n_bins=n_bins),
    }
    found = {name: getattr(report, name) for name in expected}
    assert found == pytest.approx(expected, abs=1e-12)
    assert report.confidence == pytest.approx(report.accuracy + report.gap, abs=1e-12)
    assert (report.bins is None) == (report.ace is None) == (problem[2] is not None)


@modest
@given(problems(), st.integers(1, 20))
def test_bins_equal_the_one_shot_bins(problem, n_bins):
    logits, targets, _ = problem
    bins = streamed(problem, n_bins=n_bins, **FEW).compute().bins
    expected = metrics.reliability_bins(logits, targets, n_bins)
    for name in ("lower", "count", "confidence", "accuracy"):
        np.testing.assert_allclose(getattr(bins, name), getattr(expected, name), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 10, 40])
def test_many_rows_equal_the_one_shot_metrics(sampled, dtype, classes):
    logits, targets = sampled(rows=2000, classes=classes, temperature=1.5, dtype=dtype)
    report = streamed((logits, targets), [300, 301, 1500]).compute()
    assert report.ece == pytest.approx(
        metrics.expected_calibration_error(logits, targets).total, abs=1e-13
    )
    assert report.classwise_ece == pytest.approx(
        metrics.classwise_calibration_error(logits, targets), abs=1e-13
    )
    assert report.nll == pytest.approx(metrics.negative_log_likelihood(logits, targets), abs=1e-13)


def test_the_levels_agree(sampled):
    rows = sampled()
    top_label, all_classes = TopLabelSums(), CalibrationSums(7)
    for sums in (top_label, all_classes):
        sums.update(*rows)
    full = all_classes.compute()
    for name, value in top_label.compute().to_dict().items():
        assert full.to_dict()[name] == value


def test_ten_million_rows_in_one_bin():
    logits = torch.tensor([[0.95, 0.05]]).log()
    sums = TopLabelSums()
    for target in (0, 1):
        for _ in range(5):
            sums.update(logits.expand(1_000_000, 2), torch.full((1_000_000,), target))
    report = sums.compute()
    gap = float(score_rows(logits, torch.tensor([0])).confidence) - 0.5
    assert report.n == 10_000_000
    assert report.accuracy == 0.5
    assert report.bins.count[-1] == 10_000_000
    expected = dict.fromkeys(("gap", "ece", "mce", "rmsce", "ks"), gap)
    assert {name: getattr(report, name) for name in expected} == pytest.approx(expected, rel=1e-9)


# What they determine up to a bound.


@modest
@given(problems(weighted=True), st.integers(1, 40), st.sampled_from([1, 2, 15]))
def test_quantised_confidences_have_the_one_shot_errors(problem, grid, n_bins):
    logits, targets, weights = problem
    report = streamed(problem, grid=grid, class_grid=32, n_bins=n_bins).compute()
    scores = score_rows(logits, targets)
    edges = streaming_oracles.upper_edges(grid, n_bins)
    means = streaming_oracles.quantised(scores.confidence.numpy(), edges, weights)
    quantised = torch.from_numpy(means), scores.correct, weights
    assert report.smooth_ece == pytest.approx(smooth_error_of(*quantised).error, abs=ROOT)
    assert report.ks == pytest.approx(ks_error_of(*quantised), abs=1e-12)


@modest
@given(problems(), st.integers(1, 40), st.sampled_from([1, 2, 15]), st.integers(1, 30))
def test_quantised_probabilities_have_the_ace_of_the_oracle(problem, grid, n_bins, n_ranges):
    logits, targets, _ = problem
    report = streamed(problem, grid=32, class_grid=grid, n_bins=n_bins).compute(n_ranges=n_ranges)
    edges = streaming_oracles.upper_edges(grid, n_bins)
    columns = calibration_oracles.softmax(logits).T
    quantised = np.stack([streaming_oracles.quantised(column, edges) for column in columns], 1)
    expected = streaming_oracles.adaptive_calibration_error(quantised, targets, n_ranges)
    assert report.ace == pytest.approx(expected, abs=1e-12)


@modest
@given(problems(weighted=True), st.integers(1, 60), st.sampled_from([1, 15]))
def test_smooth_and_ks_errors_keep_their_bounds(problem, grid, n_bins):
    report = streamed(problem, grid=grid, class_grid=32, n_bins=n_bins).compute()
    smooth, ks = metrics.smooth_calibration_error(*problem), metrics.ks_calibration_error(*problem)
    assert abs(report.smooth_ece - smooth) <= report.smooth_ece_bound + ROOT
    assert -1e-12 <= ks - report.ks <= report.ks_bound + 1e-12


@modest
@given(problems(), st.integers(1, 60), st.sampled_from([1, 15]), st.integers(1, 30))
def test_ace_keeps_its_bound(problem, grid, n_bins, n_ranges):
    report = streamed(problem, grid=32, class_grid=grid, n_bins=n_bins).compute(n_ranges=n_ranges)
    ace = metrics.adaptive_calibration_error(*problem[:2], n_ranges=n_ranges)
    assert abs(report.ace - ace) <= report.ace_bound + 1e-12


@pytest.mark.parametrize("grid", [4, 64, 1024])
@pytest.mark.parametrize("temperature", [0.5, 1, 3])
@pytest.mark.parametrize(("rows", "classes"), [(300, 3), (3000, 20)])
def test_bounds_hold_for_random_rows(sampled, rows, classes, temperature, grid):
    for seed in range(5):
        problem = sampled(rows=rows, classes=classes, temperature=temperature, seed=seed)
        report = streamed(problem, grid=grid, class_grid=grid).compute()
        ace = metrics.adaptive_calibration_error(*problem)
        assert abs(report.ace - ace) <= report.ace_bound
        smooth = metrics.smooth_calibration_error(*problem)
        assert abs(report.smooth_ece - smooth) <= report.smooth_ece_bound + ROOT
        ks = metrics.ks_calibration_error(*problem)
        assert -1e-12 <= ks - report.ks <= report.ks_bound + 1e-12


@pytest.mark.parametrize("temperature", [1, 2])
@pytest.mark.parametrize("classes", [10, 100, 1000])
def test_the_default_grid_is_near(sampled, classes, temperature):
    problem = sampled(rows=5000, classes=classes, temperature=temperature)
    report = streamed(problem).compute()
    ace = metrics.adaptive_calibration_error(*problem)
    assert report.ace == pytest.approx(ace, rel=0.014)
    smooth = metrics.smooth_calibration_error(*problem)
    assert report.smooth_ece == pytest.approx(smooth, abs=1e-5)
    assert report.smooth_ece_bound < 0.003


def test_bounds_shrink_with_the_cells(sampled):
    problem = sampled(rows=5000, classes=10, temperature=1.5)
    coarse = streamed(problem, grid=2**10, class_grid=2**10).compute()
    fine = streamed(problem, grid=2**14, class_grid=2**14).compute()
    for name in ("ace_bound", "smooth_ece_bound", "ks_bound"):
        assert 0 < getattr(fine, name) < getattr(coarse, name) / 8, name


# The cells.


@modest
@given(
    st.integers(1, 3000),
    st.integers(1, 120),
    st.lists(st.floats(0, 1) | st.floats(-30, 0).map(math.exp), min_size=1, max_size=20),
)
def test_every_probability_is_in_its_cell(size, n_bins, values):
    grid = LogGrid(size, n_bins=n_bins)
    up, down = (torch.nextafter(grid.upper, torch.tensor(x).double()) for x in (2, 0))
    given = torch.tensor([0, 5e-324, 1e-300, 1, *values], dtype=torch.float64)
    probabilities = torch.cat([given, grid.upper, down, up[:-1]])
    expected = torch.searchsorted(grid.upper, probabilities)
    assert torch.equal(grid.cells_of(probabilities), expected)
    bins = metrics.bins.bin_index(probabilities, n_bins)
    assert torch.equal(grid.bin_of_cell[expected], bins)
    np.testing.assert_allclose(grid.upper, streaming_oracles.upper_edges(size, n_bins), rtol=1e-13)


def test_certain_and_impossible_classes():
    logits = torch.tensor([[0.0, -math.inf], [0.0, -2000.0], [0.0, -2000.0]])
    report = streamed((logits, torch.tensor([0, 0, 1]))).compute(n_ranges=3)
    assert report.confidence == 1
    assert report.accuracy == pytest.approx(2 / 3)
    assert report.ece_over == report.classwise_ece == pytest.approx(1 / 3)
    assert report.bins.count.tolist() == [0] * 14 + [3]


# Batches, processes, storage.


@modest
@given(problems(weighted=True), st.randoms(use_true_random=False))
def test_neither_order_nor_batches_nor_merging_matter(problem, random):
    problem = all_weighted(problem)
    order = list(range(len(problem[0])))
    random.shuffle(order)
    shuffled = [x if x is None else x[order] for x in problem]
    cut = random.randint(1, len(order))
    first = streamed([x if x is None else x[:cut] for x in shuffled], **FEW)
    second = CalibrationSums(problem[0].shape[1], **FEW)
    add(second, [x if x is None else x[cut:] for x in shuffled])
    first.merge(second)
    same(first.compute(), streamed(problem, **FEW).compute())


def test_merging_in_any_order(sampled):
    rows = sampled(rows=300)
    whole = streamed(rows).compute()
    for order in ((0, 1, 2), (2, 0, 1)):
        sums = CalibrationSums(7)
        for k in order:
            sums.merge(streamed([x[100 * k : 100 * k + 100] for x in rows]))
        same(sums.compute(), whole)


def test_only_the_same_settings_are_merged():
    with pytest.raises(UserError, match="same settings"):
        TopLabelSums().merge(TopLabelSums(n_bins=10))
    with pytest.raises(UserError, match="same settings"):
        TopLabelSums().merge(CalibrationSums(3))


def test_the_state_is_loaded_as_it_was_saved(sampled, tmp_path):
    logits, targets = sampled()
    sums = streamed((logits, targets), n_bins=10)
    save_file(sums.state_dict(), tmp_path / "sums.safetensors")
    loaded = CalibrationSums(7, n_bins=10)
    loaded.load_state_dict(load_file(tmp_path / "sums.safetensors"))
    same(loaded.compute(), sums.compute(), tolerance=0)
    for both in (loaded, sums):
        both.update(logits[:50], targets[:50])
    same(loaded.compute(), sums.compute(), tolerance=0)


def test_the_state_of_other_settings_is_refused():
    # 10 bins and 20 have cells of the same number where one edge more is an edge already
    state = TopLabelSums(n_bins=10).state_dict()
    with pytest.raises(UserError, match="'n_bins': 10"):
        TopLabelSums(n_bins=20).load_state_dict(state)


def test_reset_forgets(sampled):
    rows = sampled()
    sums = streamed(rows)
    expected = sums.compute()
    sums.reset()
    with pytest.raises(UserError, match="have seen no rows"):
        sums.compute()
    sums.update(*rows)
    same(sums.compute(), expected, tolerance=0)


def test_the_state_does_not_grow_and_needs_no_gradient(sampled):
    logits, targets = sampled()
    sums = CalibrationSums(7)
    before = [(buffer.shape, buffer.dtype) for buffer in sums.buffers()]
    sums.update(logits.requires_grad_(), targets)
    assert [(buffer.shape, buffer.dtype) for buffer in sums.buffers()] == before
    assert not any(buffer.requires_grad for buffer in sums.buffers())
    assert not list(sums.parameters())


def test_casting_the_model_around_it_casts_no_sum(sampled):
    sums = streamed(sampled())
    expected = sums.compute()
    torch.nn.Sequential(torch.nn.Linear(2, 2), sums).half()
    same(sums.compute(), expected, tolerance=0)
    assert all(buffer.dtype in (torch.float64, torch.int64) for buffer in sums.buffers())


PROCESS = """
import sys
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from temperance.calibration.streaming import CalibrationSums
from temperance.errors import UserError

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
rows = load_file(f"{folder}/rows.safetensors")
mine = slice(0, 70) if rank == 0 else slice(70, None)
sums = CalibrationSums(7)
sums.update(rows["logits"][mine], rows["targets"][mine])
sums.all_reduce()
save_file(sums.state_dict(), f"{folder}/{rank}.safetensors")
for again in (sums.all_reduce, lambda: sums.update(rows["logits"], rows["targets"])):
    try:
        again()
    except UserError as error:
        assert "reset" in str(error)
    else:
        raise AssertionError
sums.reset()
sums.update(rows["logits"], rows["targets"])
dist.destroy_process_group()
"""


def test_two_processes_of_unequal_rows_are_one(sampled, tmp_path):
    logits, targets = sampled(rows=100)
    save_file({"logits": logits, "targets": targets}, tmp_path / "rows.safetensors")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(rank), str(tmp_path)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    expected = streamed((logits, targets), [70]).state_dict()
    for rank in range(2):
        found = load_file(tmp_path / f"{rank}.safetensors")
        assert found.keys() == expected.keys()
        for name, value in found.items():
            if value.is_floating_point():
                torch.testing.assert_close(value, expected[name], rtol=1e-14, atol=0)
            else:
                assert torch.equal(value, expected[name])


def test_without_processes_there_is_nothing_to_reduce(sampled):
    sums = streamed(sampled())
    expected = sums.compute()
    sums.all_reduce()
    same(sums.compute(), expected, tolerance=0)
    sums.update(*sampled())


# Mistakes.


def test_nothing_has_no_calibration():
    for sums in (TopLabelSums(), CalibrationSums(3)):
        with pytest.raises(UserError, match="have seen no rows"):
            sums.compute()


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (([[0.0, math.nan]], [0]), "NaN"),
        (([[0.0, math.inf]], [0]), "inf"),
        (([[0.0, -math.inf]], [1]), "true class"),
        (([[0.0, 1.0]], [2]), "outside"),
        (([[0.0, 1.0, 2.0]], [0]), "hold 3 classes, not 2"),
        (([[0.0, 1.0]], [0], [-1.0]), "weight"),
    ],
)
def test_a_refused_batch_changes_nothing(bad, words):
    sums = CalibrationSums(2)
    good = torch.zeros(1, 2), torch.tensor([1])
    sums.update(*good)
    with pytest.raises(UserError, match=words):
        sums.update(*map(torch.tensor, bad))
    same(sums.compute(), streamed(good).compute(), tolerance=0)


def test_unchecked_rows_are_trusted():
    sums = TopLabelSums(validate=False)
    sums.update(torch.tensor([[0.9, 0.1]]), torch.tensor([0]))  # would warn of probabilities
    assert sums.compute().n == 1


@pytest.mark.parametrize(
    "settings", [{"classes": 1}, {"n_bins": 0}, {"grid": 0}, {"class_grid": 0}]
)
def test_settings_that_make_no_sense(settings):
    with pytest.raises(UserError):
        CalibrationSums(**{"classes": 3, **settings})


def test_what_compute_refuses(sampled):
    sums = streamed(sampled())
    with pytest.raises(UserError, match="0 ranges"):
        sums.compute(n_ranges=0)
    with pytest.raises(UserError, match=r"1\.\.7"):
        sums.compute(k=8)
