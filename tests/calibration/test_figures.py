import itertools
import math
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from reference import figure_oracles as oracle
from reference.calibration_oracles import softmax
from temperance.calibration import (
    ReliabilityBins,
    calibration_report,
    classwise_calibration_error,
    fit_temperature,
    reliability_before_after,
    reliability_bins,
    reliability_diagram,
    smooth_calibration_error,
)
from temperance.calibration.figures import (
    OVER_CONFIDENT,
    UNDER_CONFIDENT,
    classwise_bins,
    classwise_grid,
    consistency_band,
    smooth_reliability,
    smooth_reliability_curve,
    sweep_temperature,
    temperature_sweep,
)
from temperance.calibration.figures.look import CHANCE, CLEAR, INK, PALE, ROWS
from temperance.calibration.figures.smooth import POINTS
from temperance.errors import UserError

LAYOUTS = ["constrained", "tight"]


# What is drawn, on canvases of the size that a reader sees.


def figure_of(inches=5, layout="constrained"):
    figure = Figure(figsize=(inches, inches), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def bars(ax, colour):
    """(left, low, high, alpha) of the bars of a colour, from left to right."""
    found = []
    for bar in ax.patches:
        if to_hex(bar.get_facecolor()).upper() == colour.upper() and bar.get_height():
            ends = sorted((bar.get_y(), bar.get_y() + bar.get_height()))
            found.append((bar.get_x(), *ends, bar.get_alpha()))
    return np.array(sorted(found), dtype=float).reshape(-1, 4)


def bar_colours(ax):
    return {to_hex(bar.get_facecolor()).upper() for bar in ax.patches if bar.get_height()}


def areas(ax, colour):
    return [
        area
        for area in ax.collections
        if len(area.get_facecolor())
        and to_hex(area.get_facecolor()[0]).upper() == colour.upper()
        and any(len(path.vertices) for path in area.get_paths())
    ]


def shown_texts(ax):
    legend = ax.get_legend()
    texts = [*ax.texts, ax.title, ax._left_title, ax.xaxis.label, ax.yaxis.label]
    texts += [legend.get_title(), *legend.get_texts()] if legend else []
    for axis in (ax.xaxis, ax.yaxis):
        low, high = sorted(axis.get_view_interval())
        ticks = axis.get_major_ticks()
        texts += [tick.label1 for tick in ticks if low <= tick.get_loc() <= high]
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


def words(ax):
    return "\n".join(text.get_text() for text in shown_texts(ax))


def assert_texts_are_apart_and_inside(figure):
    figure.draw_without_rendering()
    boxes = [
        (text.get_text(), text.get_window_extent())
        for ax in figure.axes
        for text in shown_texts(ax)
    ]
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        along = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert across <= 0.5 or along <= 0.5, (one, other)
    page = figure.bbox
    for text, box in boxes:
        assert box.x0 >= page.x0 - 1, text
        assert box.x1 <= page.x1 + 1, text
        assert box.y0 >= page.y0 - 1, text
        assert box.y1 <= page.y1 + 1, text


@pytest.fixture
def cases(sampled):
    over, under, calibrated = (sampled(2000, 10, temperature) for temperature in (2.5, 0.4, 1.0))
    logits, _ = sampled(500, 10)
    predicted = logits.argmax(1)
    sure = torch.zeros(400, 10, dtype=torch.float64)
    sure[:, 3] = 100
    sure_targets = torch.where(torch.arange(400) % 5 == 0, 1, 3)
    return {
        "over-confident": over,
        "under-confident": under,
        "calibrated": calibrated,
        "tiny": sampled(30, 10, 1.5),
        "a row": sampled(1, 10),
        "many classes": sampled(1000, 100, 2.0),
        "all right": (logits, predicted),
        "all wrong": (logits, (predicted + 1) % 10),
        "confidence all 1": (sure, sure_targets),
    }


# Reliability diagrams.


@pytest.mark.parametrize("layout", [None, "constrained", "tight"])
def test_diagram_tells_its_numbers_and_its_direction(sampled, tmp_path, layout):
    bins = reliability_bins(*sampled(rows=1234, temperature=4.0))
    figure = Figure(figsize=(5, 5), layout=layout)
    ax = figure.subplots()
    assert reliability_diagram(ax, bins, title="teacher") is ax
    error = bins.error
    assert ax.get_title(loc="left") == "teacher"
    assert f"confidence − accuracy +{100 * error.signed:.1f} points" in words(ax)
    assert f"ECE {100 * error.total:.1f} %, n = 1,234" in words(ax)
    assert f"over {100 * error.over:.1f}\nunder {100 * error.under:.1f}\n" in words(ax)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("confidence (%)", "accuracy (%)")
    assert OVER_CONFIDENT in bar_colours(ax)
    assert UNDER_CONFIDENT not in bar_colours(ax)
    figure.savefig(tmp_path / "diagram.svg")


def test_a_bar_spans_from_accuracy_to_confidence_and_is_clear_beyond_the_band():
    bins = ReliabilityBins(
        lower=np.arange(4) / 4,
        count=np.array([400, 0, 100, 100]),
        confidence=np.array([0.2, np.nan, 0.6, 0.9]),
        accuracy=np.array([0.4, np.nan, 0.55, 0.5]),
    )
    ax = reliability_diagram(Figure().subplots(), bins)
    width = 0.92 / 4
    over, under = bars(ax, OVER_CONFIDENT), bars(ax, UNDER_CONFIDENT)
    assert under == pytest.approx(np.array([[0.125 - width / 2, 0.2, 0.4, CLEAR]]))
    assert over[:, 1:] == pytest.approx(np.array([[0.55, 0.6, PALE], [0.5, 0.9, CLEAR]]))
    low, high = (400 * bars(ax, CHANCE)[0, 1:3]).round()
    chance = [math.comb(400, k) * 0.2**k * 0.8 ** (400 - k) for k in range(401)]
    for first_inside in (int(low), 400 - int(high)):
        tail = chance if first_inside == int(low) else chance[::-1]
        assert sum(tail[:first_inside]) < 0.025 <= sum(tail[: first_inside + 1])
    rows = bars(ax, ROWS)
    assert (rows[:, 2] - rows[:, 1]) / np.ptp(rows[0, 1:3]) == pytest.approx([1, 0.25, 0.25])
    (line,) = (lines for lines in ax.collections if isinstance(lines, LineCollection))
    assert [path.vertices[0, 1] for path in line.get_paths()] == [0.4, 0.55, 0.5]
    hatched = {to_hex(bar.get_facecolor()).upper() for bar in ax.patches if bar.get_hatch()}
    assert hatched == {UNDER_CONFIDENT}


def test_band_holds_95_percent_of_redrawn_accuracies(sampled):
    logits, _ = sampled(rows=600, classes=4)
    confidence = torch.from_numpy(softmax(logits.numpy())).amax(1)
    generator = torch.Generator().manual_seed(1)
    bins = reliability_bins(logits, logits.argmax(1), n_bins=10)
    low, high = consistency_band(bins)
    index = torch.from_numpy(np.ceil(confidence.numpy() * 10).astype(int) - 1)
    inside = np.zeros(10)
    for _ in range(400):
        hit = (torch.rand(600, generator=generator, dtype=torch.float64) < confidence).double()
        accuracy = torch.bincount(index, hit, minlength=10).numpy() / bins.count.clip(min=1)
        inside += (accuracy >= low) & (accuracy <= high)
    full = bins.count > 0
    assert (inside[full] / 400 > 0.92).all()
    assert np.isnan(low[~full]).all()


def test_band_of_a_mean_that_rounds_above_1():
    above = np.array([np.nextafter(1, 2)])
    bins = ReliabilityBins(np.zeros(1), np.array([3]), confidence=above, accuracy=np.ones(1))
    assert consistency_band(bins).tolist() == [[1], [1]]


def test_before_and_after_share_their_scales(sampled):
    before = reliability_bins(*sampled(temperature=0.3))
    after = reliability_bins(*sampled())
    left, right = reliability_before_after(Figure().subplots(1, 2), before, after)
    assert UNDER_CONFIDENT in bar_colours(left)
    titles = [ax.get_title(loc="left") for ax in (left, right)]
    assert titles == ["before calibration", "after calibration"]
    assert (left.get_xlim(), left.get_ylim()) == (right.get_xlim(), right.get_ylim())
    for ax, bins in ((left, before), (right, after)):
        rows = bars(ax, ROWS)
        heights = rows[:, 2] - rows[:, 1]
        ratio = heights / bins.count[bins.count > 0]
        assert ratio == pytest.approx(0.16 / before.count.max())


# Class by class.


def test_class_bins_are_those_of_the_definition(sampled):
    logits, targets = sampled(rows=300, classes=5, temperature=1.7)
    found = classwise_bins(logits, targets, classes=[3, 0], n_bins=7)
    assert list(found) == [3, 0]
    for label, bins in found.items():
        expected = oracle.class_bins(logits.numpy(), targets.numpy(), label, 7)
        assert bins.count.tolist() == expected[0].tolist()
        np.testing.assert_allclose(bins.confidence, expected[1], rtol=1e-12)
        np.testing.assert_allclose(bins.accuracy, expected[2], rtol=1e-12)


def test_worst_classes_come_first_and_all_of_them_are_the_classwise_error(sampled):
    logits, targets = sampled(rows=300, classes=12, temperature=2.0)
    every = classwise_bins(logits, targets, worst=99)
    errors = [bins.error.total for bins in every.values()]
    assert sorted(every) == list(range(12))
    assert errors == sorted(errors, reverse=True)
    assert np.mean(errors) == pytest.approx(classwise_calibration_error(logits, targets))
    assert list(classwise_bins(logits, targets)) == list(every)[:9]


def test_grid_names_its_classes_and_hides_what_is_left_over(sampled):
    logits, targets = sampled(rows=2000, classes=10, temperature=2.5)
    bins = classwise_bins(logits, targets, worst=5)
    figure = figure_of(7)
    names = [f"${number}_{{" for number in range(10)]  # no formula
    axes = figure.subplots(2, 3)
    drawn = classwise_grid(axes, bins, names=names)
    assert drawn == list(axes.flat[:5])
    assert [ax.get_title(loc="left") for ax in drawn] == [names[label] for label in bins]
    for ax, (label, each) in zip(drawn, bins.items(), strict=True):
        own = int((targets == label).sum())
        assert f"ECE {100 * each.error.total:.2f} %, {own:,} of n = 2,000" in words(ax)
    assert not axes[1, 2].axison
    labelled = [[bool(ax.get_xlabel()), bool(ax.get_ylabel())] for ax in drawn]
    assert labelled == [[0, 1], [0, 0], [1, 0], [1, 1], [1, 0]]
    assert_texts_are_apart_and_inside(figure)


def test_strip_of_a_class_is_cut_where_most_rows_lie(sampled):
    logits, targets = sampled(rows=2000, classes=10)
    bins = classwise_bins(logits, targets, classes=[4])[4]
    (ax,) = classwise_grid([Figure().subplots()], {4: bins})
    rows = bars(ax, ROWS)
    others = bins.count[1:] / bins.count[1:].max()
    heights = (rows[:, 2] - rows[:, 1]) / 0.16
    assert heights == pytest.approx([1, *others[others > 0]])
    assert f"{100 * bins.count[0] / 2000:.0f} %" in words(ax)


def test_axes_without_a_grid_keep_their_labels(sampled):
    figure = Figure()
    axes = [figure.add_axes((left, 0.2, 0.3, 0.5)) for left in (0.1, 0.6)]
    drawn = classwise_grid(axes, classwise_bins(*sampled(), worst=2))
    assert [ax.get_ylabel() for ax in drawn] == ["frequency (%)"] * 2


def test_grid_refuses_what_does_not_fit(sampled):
    with pytest.raises(UserError, match="1 for 2 classes"):
        classwise_grid([Figure().subplots()], classwise_bins(*sampled(), worst=2))
    with pytest.raises(UserError, match=r"7 is not in 0\.\.6"):
        classwise_bins(*sampled(), classes=[7])


# Without bins.


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_smooth_curve_is_that_of_the_definition(sampled, temperature):
    logits, targets = sampled(rows=200, classes=4, temperature=temperature)
    curve = smooth_reliability_curve(logits, targets, redraws=2)
    probabilities = softmax(logits.numpy())
    at = (np.arange(POINTS) + 0.5) / POINTS
    density, confidence, accuracy = oracle.smooth_curve(
        at, probabilities.max(1), probabilities.argmax(1) == targets.numpy(), curve.bandwidth
    )
    seen = density > np.exp(-2) / (np.sqrt(2 * np.pi) * curve.bandwidth * 200)
    np.testing.assert_allclose(curve.density, density[seen], atol=2e-3)
    np.testing.assert_allclose(curve.confidence, confidence[seen], atol=2e-4)
    np.testing.assert_allclose(curve.accuracy, accuracy[seen], atol=2e-3)


def test_smooth_error_is_the_area_to_the_diagonal(sampled):
    logits, targets = sampled(rows=2000, temperature=1.5)
    curve = smooth_reliability_curve(logits, targets)
    error = smooth_calibration_error(logits, targets)
    report = calibration_report(logits, targets, intervals=False)
    distance = np.abs(curve.confidence - curve.accuracy)
    assert curve.error.total == pytest.approx(error, abs=1e-12)
    assert curve.error.signed == pytest.approx(report.gap, abs=1e-12)
    assert float(curve.density @ distance) / POINTS == pytest.approx(error, abs=5e-4)
    assert curve.bandwidth == pytest.approx(error, abs=1e-6)


def test_smooth_band_holds_95_percent_of_calibrated_curves(sampled):
    inside = []
    for seed in range(20):
        curve = smooth_reliability_curve(*sampled(rows=500, seed=seed), redraws=80)
        inside.append(((curve.accuracy >= curve.low) & (curve.accuracy <= curve.high)).mean())
    # of 20 curves, each of correlated points; the bandwidth follows the data, so it is not exact
    assert 0.85 < np.mean(inside) < 0.99


def test_smooth_diagram_tells_its_numbers_and_its_direction(sampled):
    curve = smooth_reliability_curve(*sampled(rows=1234, temperature=4.0))
    ax = figure_of().subplots()
    assert smooth_reliability(ax, curve, title="teacher") is ax
    assert f"smooth ECE {100 * curve.error.total:.1f} %, n = 1,234" in words(ax)
    assert areas(ax, OVER_CONFIDENT)
    assert not areas(ax, UNDER_CONFIDENT)
    (line,) = (drawn for drawn in ax.collections if isinstance(drawn, LineCollection))
    starts = np.array([path.vertices[0] for path in line.get_paths()])
    assert starts == pytest.approx(np.stack([curve.confidence, curve.accuracy], 1)[:-1])
    densest = int(curve.density.argmax())
    assert line.get_linewidths()[densest] == max(line.get_linewidths())


def test_smooth_diagram_of_one_confidence_is_a_point_and_a_stick():
    logits = torch.tensor([[0.8, 0.2]], dtype=torch.float64).log().expand(50, 2)
    curve = smooth_reliability_curve(logits, torch.arange(50) % 2)
    ax = smooth_reliability(Figure().subplots(), curve)
    assert ax.lines[-1].get_xydata()[0] == pytest.approx([0.8, 0.5])
    sticks = [area for area in ax.collections if to_hex(area.get_edgecolor()[0]).upper() ==
              OVER_CONFIDENT]  # fmt: skip
    assert sticks[0].get_paths()[0].vertices[:, 1] == pytest.approx([0.5, 0.8])


# Over temperatures.


def test_sweep_is_nll_and_ece_of_the_scaled_logits(sampled):
    logits, targets = sampled(rows=400, temperature=2.0)
    temperatures = [0.5, 1.0, 3.0]
    sweep = sweep_temperature(logits, targets, temperatures=temperatures)
    for place, temperature in enumerate(temperatures):
        scaled = log_softmax(logits.numpy() / temperature, axis=1)
        nll = -scaled[np.arange(400), targets.numpy()].mean()
        assert sweep.nll[place] == pytest.approx(nll, rel=1e-12)
        error = reliability_bins(logits / temperature, targets).error
        assert sweep.ece_over[place] == pytest.approx(error.over, abs=1e-12)
        assert sweep.ece[place] == pytest.approx(error.total, abs=1e-12)


def test_sweep_finds_the_fitted_temperature_at_the_least_nll(sampled):
    logits, targets = sampled(rows=2000, temperature=2.0)
    sweep = sweep_temperature(logits, targets)
    fit = fit_temperature(logits, targets)
    assert sweep.fit == fit
    assert sweep.temperature[sweep.nll.argmin()] == fit.temperature
    assert 1.0 in sweep.temperature

    def nll(log_temperature):
        scaled = log_softmax(logits.numpy() / np.exp(log_temperature), axis=1)
        return -scaled[np.arange(2000), targets.numpy()].mean()

    best = np.exp(minimize_scalar(nll, bounds=(-2, 3)).x)
    assert fit.temperature == pytest.approx(best, rel=1e-4)
    assert sweep.interval.low < 2.0 < sweep.interval.high
    middle = np.sqrt(sweep.interval.low * sweep.interval.high)
    assert middle == pytest.approx(fit.temperature)


def test_weights_of_a_sweep_count_rows(sampled):
    logits, targets = sampled(rows=100)
    weights = torch.arange(100) % 3
    repeated = torch.arange(100).repeat_interleave(weights)
    one = sweep_temperature(logits, targets, weights.double(), temperatures=[1.0, 2.0])
    other = sweep_temperature(logits[repeated], targets[repeated], temperatures=[1.0, 2.0])
    np.testing.assert_allclose(one.nll, other.nll, rtol=1e-12)
    np.testing.assert_allclose(one.ece, other.ece, atol=1e-12)


def test_sweep_marks_the_fit_its_interval_and_the_least_ece(sampled):
    sweep = sweep_temperature(*sampled(rows=2000, temperature=2.0))
    figure = figure_of()
    upper, lower = temperature_sweep(figure.subplots(2, 1), sweep, title="teacher")
    fit, (low, high), least = sweep.fit, sweep.interval, int(sweep.ece.argmin())
    assert f"T = {fit.temperature:.3g} ({low:.3g} to {high:.3g}), n = 2,000" in words(upper)
    least_words = f"least: {100 * sweep.ece[least]:.1f} % at {sweep.temperature[least]:.3g}"
    assert least_words in words(lower)
    assert f"{100 * fit.ece_before:.1f} % at T = 1, {100 * fit.ece_after:.1f} %" in words(lower)
    for ax in (upper, lower):
        assert ax.get_xscale() == "log"
        verticals = {line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 2}
        assert verticals == {1, fit.temperature}
        (band,) = ax.patches
        assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((low, high))
    marks = [line for line in lower.lines if line.get_marker() == "o"]
    assert marks[0].get_xydata().tolist() == [[sweep.temperature[least], 100 * sweep.ece[least]]]
    assert upper.lines[0].get_ydata() == pytest.approx(sweep.nll)
    assert lower.lines[0].get_ydata() == pytest.approx(100 * sweep.ece)
    assert areas(lower, OVER_CONFIDENT)
    assert areas(lower, UNDER_CONFIDENT)


def test_sweep_without_a_usable_fit_says_so(cases):
    sweep = sweep_temperature(*cases["all right"])
    upper, lower = temperature_sweep(Figure().subplots(2, 1), sweep)
    assert "no T fits these rows (separable), n = 500" in words(upper)
    assert "fitted" not in words(upper) + words(lower)
    assert not upper.patches


@pytest.mark.parametrize("temperatures", [[1.0], [2.0, 1.0], [0.0, 1.0], [1.0, np.nan]])
def test_sweep_refuses_what_is_no_grid(sampled, temperatures):
    with pytest.raises(UserError, match="temperatures"):
        sweep_temperature(*sampled(), temperatures=temperatures)


# All of them.


def drawings(logits, targets):
    few = np.geomspace(0.25, 8, 9)
    return {
        "reliability": lambda figure: reliability_diagram(
            figure.subplots(), reliability_bins(logits, targets), title="a teacher"
        ),
        "one bin": lambda figure: reliability_diagram(
            figure.subplots(), reliability_bins(logits, targets, n_bins=1)
        ),
        "smooth": lambda figure: smooth_reliability(
            figure.subplots(), smooth_reliability_curve(logits, targets, redraws=2)
        ),
        "sweep": lambda figure: temperature_sweep(
            figure.subplots(2, 1), sweep_temperature(logits, targets, temperatures=few), title="T"
        ),
        "classes": lambda figure: classwise_grid(
            figure.subplots(), classwise_bins(logits, targets, worst=1)
        ),
    }


@pytest.mark.parametrize(("inches", "layout"), [(3, "constrained"), (3, "tight"), (6, "tight")])
def test_no_text_is_on_another_or_off_the_page(cases, inches, layout):
    for case in ("over-confident", "tiny"):
        for draw in drawings(*cases[case]).values():
            figure = figure_of(inches, layout)
            draw(figure)
            assert_texts_are_apart_and_inside(figure)


def test_every_case_draws_without_a_warning(cases):
    for case in cases.values():
        for draw in (drawings(*case)[name] for name in ("reliability", "smooth", "sweep")):
            figure = figure_of(2, layout=None)
            draw(figure)
            figure.draw_without_rendering()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_before_and_after_fit_beside_each_other(cases, layout):
    bins = [reliability_bins(*cases[name]) for name in ("over-confident", "calibrated")]
    figure = Figure(figsize=(6, 3), layout=layout)
    FigureCanvasAgg(figure)
    reliability_before_after(figure.subplots(1, 2), *bins)
    assert_texts_are_apart_and_inside(figure)


def test_subfigures_will_do(sampled):
    figure = figure_of(6)
    left, right = figure.subfigures(1, 2)
    reliability_diagram(left.subplots(), reliability_bins(*sampled()))
    temperature_sweep(right.subplots(2, 1), sweep_temperature(*sampled(temperature=2.0)))
    figure.canvas.draw()


def test_nothing_but_the_hatch_is_needed_in_grey(cases):
    figure = figure_of()
    ax = reliability_diagram(figure.subplots(), reliability_bins(*cases["under-confident"]))
    handles = {handle.get_label(): handle for handle in ax.get_legend().legend_handles}
    assert [bool(handle.get_hatch()) for handle in handles.values()] == [False, True, False]
    assert INK in {to_hex(line.get_color()) for line in ax.lines}


def test_matplotlib_is_imported_by_those_who_draw_only():
    code = "import sys, temperance.calibration; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert mpl.__name__ == "matplotlib"
