from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from temperance.reporting.figures import svg
from temperance.reporting.study_figures import (
    MOST_FAMILIES,
    alignment_plot,
    figure_one,
    softening_curves,
    temperature_points,
    under_confidence_curve,
)

NAN = float("nan")


def pool(n: int, families: int = 5) -> pd.DataFrame:
    draw = np.random.default_rng(n)
    return pd.DataFrame(
        {
            "family": [f"family {i % families}" for i in range(n)],
            "accuracy": draw.normal(0.75, 0.02, n),
            "ace": draw.normal(2e-3, 3e-4, n),
            "ece": draw.normal(0.08, 0.02, n),
            "gap": draw.normal(0.0, 0.04, n),
            "student_accuracy": draw.normal(0.72, 0.01, n),
        }
    )


def points(ax: Any) -> np.ndarray:
    """Everything drawn as unconnected markers."""
    found = [li.get_xydata() for li in ax.lines if li.get_linestyle() == "None"]
    return np.concatenate(found)


def labelled(ax: Any) -> dict[str, np.ndarray]:
    return {li.get_label(): li.get_xydata() for li in ax.lines if li.get_label()[0] != "_"}


def legend(owner: Any) -> list[str]:
    return [text.get_text() for text in owner.get_texts()]


def test_figure_one_shows_every_teacher_twice_with_its_line(figure: Figure) -> None:
    teachers = pool(17)
    left, right = figure_one(figure, teachers, r=(0.5, -0.9))
    students = 100 * teachers["student_accuracy"]
    for ax, x in ((left, 100 * teachers["accuracy"]), (right, 1000 * teachers["ace"])):
        expected = sorted(zip(x, students, strict=True))
        assert sorted(map(tuple, points(ax))) == pytest.approx(np.array(expected))
        line = next(li for li in ax.lines if li.get_linestyle() == "-")
        slope = np.cov(x, students)[0, 1] / np.var(x, ddof=1)
        expected_line = students.mean() + slope * (np.array([x.min(), x.max()]) - x.mean())
        assert line.get_xdata() == pytest.approx([x.min(), x.max()])
        assert line.get_ydata() == pytest.approx(expected_line)
    assert (left.get_title("left"), right.get_title("left")) == (
        "r = 0.50, n = 17", "r = −0.90, n = 17"
    )  # fmt: skip
    assert legend(figure.legends[0]) == [f"family {i}" for i in range(5)]
    assert left.get_ylim() == right.get_ylim()


@pytest.mark.parametrize(
    ("error", "factor", "label"),
    [("ace", 1000, "10⁻³"), ("ece", 100, "ECE (%)"), ("gap", 100, "confidence − accuracy")],
)
def test_figure_one_has_the_error_asked_for(
    figure: Figure, error: Any, factor: float, label: str
) -> None:
    teachers = pool(8)
    _, right = figure_one(figure, teachers, error=error, r=(None, None))
    assert sorted(points(right)[:, 0]) == pytest.approx(sorted(factor * teachers[error]))
    assert label in right.get_xlabel()
    zero = [li for li in right.lines if list(li.get_xdata()) == [0, 0]]
    assert len(zero) == (error == "gap")  # the side of a signed gap can be seen


def test_figure_one_counts_whom_it_leaves_out(figure: Figure) -> None:
    teachers = pool(6)
    teachers.loc[0, "ace"] = NAN
    teachers.loc[1, "student_accuracy"] = NAN
    left, right = figure_one(figure, teachers, r=(0.1, None))
    assert left.get_title("left") == "r = 0.10, n = 5 (1 without a value, not shown)"
    assert right.get_title("left") == "n = 4 (2 without a value, not shown)"


@pytest.mark.parametrize("families", [1, MOST_FAMILIES, MOST_FAMILIES + 1])
def test_families_look_different_as_long_as_they_can(figure: Figure, families: int) -> None:
    left, _ = figure_one(figure, pool(200, families), r=(None, None))
    looks = {(li.get_color(), li.get_marker()) for li in left.lines if li.get_linestyle() == "None"}
    assert len(looks) == (families if families <= MOST_FAMILIES else 1)
    assert len(figure.legends) == (1 < families <= MOST_FAMILIES)


def test_no_line_through_teachers_that_are_all_alike(figure: Figure) -> None:
    teachers = pool(5).assign(accuracy=0.75)
    left, _ = figure_one(figure, teachers, r=(None, None))
    assert [li for li in left.lines if li.get_linestyle() == "-"] == []


def test_alignment_has_both_answers_and_the_fit(ax: Any) -> None:
    x, y = np.log([1.0, 2.0, 4.0, 3.0, 2.0]), np.log([2.0, 3.0, 9.0, 16.0, NAN])
    edge = [False, False, False, True, False]
    alignment_plot(
        ax, x, [0.1, NAN, 0.1, 0.1, 0.1], y, [0.2] * 5, list("aabbb"),
        edge=edge, slope=0.8, intercept=0.5, band=(x[:3], y[:3] - 1, y[:3] + 1),
    )  # fmt: skip
    assert sorted(map(tuple, np.round(points(ax), 9))) == [(1, 2), (2, 3), (3, 16), (4, 9)]
    lines = {name: np.log(data) for name, data in labelled(ax).items()}
    slopes = {name: np.diff(data[:, 1])[0] / np.diff(data[:, 0])[0] for name, data in lines.items()}
    assert slopes == pytest.approx(
        {"slope 1: T is the unit": 1, "slope 0: one constant": 0, "fitted: slope 0.80": 0.8}
    )
    for name in ("slope 1: T is the unit", "slope 0: one constant"):
        (x0, y0), (x1, y1) = lines[name]
        at_mean = y0 + (y1 - y0) * (x[:3].mean() - x0) / (x1 - x0)
        assert at_mean == pytest.approx(y[:3].mean())  # the fitted teachers' mean, no other's
    fitted = lines["fitted: slope 0.80"]
    assert fitted[:, 1] == pytest.approx(0.5 + 0.8 * fitted[:, 0])
    hollow = [li for li in ax.lines if li.get_fillstyle() == "none" and len(li.get_xdata())]
    assert [li.get_xydata().round(9).tolist() for li in hollow] == [[[3, 16]]]
    assert "optimum at the grid's end, not fitted" in legend(ax.get_legend())
    assert legend(ax.get_legend())[-2:] == ["a", "b"]
    assert "1 without a value" in ax.get_xlabel()
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    bars = [np.log(s[:, 0]) for s in ax.collections[0].get_segments() if len(s)]
    assert bars[0] == pytest.approx([-0.196, 0.196])


def test_alignment_without_a_fit_draws_none(ax: Any) -> None:
    alignment_plot(ax, [0.5], [NAN], [1.0], [NAN], ["a"], edge=[True])
    assert labelled(ax) == {}
    assert legend(ax.get_legend()) == ["optimum at the grid's end, not fitted"]


def thick(ax: Any) -> np.ndarray:
    (line,) = (li for li in ax.lines if li.get_linewidth() == 2.6)
    return np.asarray(line.get_xydata())


def test_softening_curves_and_their_mean(ax: Any) -> None:
    grid = [0.5, 1, 2, 4]
    accuracies = np.array([[0.5, 0.6, 0.7, 0.6], [0.7, 0.8, NAN, 0.8]])
    softening_curves(ax, grid, accuracies)
    thin = [li.get_xydata() for li in ax.lines if li.get_linewidth() == 0.8]
    assert thin[0] == pytest.approx(np.c_[grid, [50, 60, 70, 60]])
    assert thin[1] == pytest.approx(np.c_[[0.5, 1, 4], [70, 80, 80]])  # bridged
    # Levels 60 and 76 2/3; deviations −10 0 10 0 and −6 2/3 3 1/3 (3 1/3) 3 1/3.
    assert thick(ax) == pytest.approx(np.c_[grid, np.array([60, 70, 75, 70])])
    assert ax.get_xscale() == "log"


def test_curves_that_agree_in_units_of_t_lie_on_one_another(ax: Any) -> None:
    grid = 2.0 ** np.arange(-1, 5)
    temperatures = np.array([1.0, 2.0, 4.0])
    accuracies = 0.9 - 0.01 * np.log(grid / (2 * temperatures[:, None])) ** 2
    softening_curves(ax, grid, accuracies, temperatures=temperatures)
    thin = [li.get_xydata() for li in ax.lines if li.get_linewidth() == 0.8]
    for curve in thin:
        assert curve[:, 1] == pytest.approx(90 - np.log(curve[:, 0] / 2) ** 2)
    mean = thick(ax)
    assert (mean[0, 0], mean[-1, 0]) == pytest.approx((0.5, 4))  # where all three have a curve
    assert mean[np.argmax(mean[:, 1]), 0] == pytest.approx(2)
    assert any(list(li.get_xdata()) == [1, 1] for li in ax.lines)
    assert "τₜ / T" in ax.get_xlabel()


def test_centred_curves_have_mean_zero_and_lost_teachers_are_counted(ax: Any) -> None:
    accuracies = [[0.5, 0.6], [0.8, 0.9], [NAN, NAN], [0.1, 0.2]]
    softening_curves(ax, [1, 2], accuracies, temperatures=[1, 1, 1, NAN], centred=True)
    thin = [li.get_ydata() for li in ax.lines if li.get_linewidth() == 0.8]
    assert thin == [pytest.approx([-5, 5])] * 2
    assert "2 without a value" in ax.get_xlabel()


def test_under_confidence_goes_through_no_difference_at_factor_one(ax: Any) -> None:
    under_confidence_curve(
        ax, [2, 0.5, 1, 3], [0.4, -0.3, 9.0, NAN], [0.1, NAN, 0, 0], [0.7, NAN, 0, 0],
        temperature_interval=(0.8, 1.25),
    )  # fmt: skip
    curve = next(li for li in ax.lines if li.get_linestyle() == "-" and len(li.get_xdata()) == 3)
    assert curve.get_xydata().tolist() == [[0.5, -0.3], [1, 0], [2, 0.4]]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["×1", "×2", "×0.5"]
    segments = [segment.tolist() for segment in ax.collections[0].get_segments()]
    assert segments[0] == [[2, 0.1], [2, 0.7]]
    band = ax.patches[0]
    assert (band.get_x(), band.get_width()) == pytest.approx((0.8, 0.45))
    assert ax.get_xlim()[0] < 0.5
    assert ax.get_xlim()[1] > 2


def test_temperatures_with_their_interval_on_a_log_axis(ax: Any) -> None:
    temperature_points(ax, [2.0, np.inf, 1.5], [0.1, 0.1, np.nan])
    assert ax.get_yscale() == "log"
    assert ax.lines[-1].get_xydata().tolist() == [[0, 2.0], [2, 1.5]]
    segment = ax.collections[0].get_segments()[0]
    assert np.log(segment[:, 1] / 2).tolist() == pytest.approx([-0.196, 0.196])
    assert "1 without a finite T" in ax.get_xlabel()
    assert ax.get_ylim()[0] < 1  # the line T = 1 is always in sight


@pytest.mark.parametrize(
    ("n", "kind"),
    [(1, "usual"), (2, "equal"), (17, "usual"), (17, "missing"), (200, "usual")],
)
def test_drawings_survive_rendering_without_warnings(n: int, kind: str) -> None:
    draw = np.random.default_rng(0)
    teachers = pool(n)
    factors, (x, y, errors) = draw.uniform(0.2, 8, n), draw.normal(size=(3, n))
    curves = draw.normal(0.9, 0.01, (n, 4))
    if kind == "equal":
        teachers = teachers.assign(accuracy=0.75, ace=2e-3, student_accuracy=0.7)
        x, y, curves = np.zeros(n), np.ones(n), np.full((n, 4), 0.9)
    if kind == "missing":
        teachers = teachers.assign(ace=NAN)
        x = y = errors = np.full(n, NAN)
        curves = np.full((n, 4), NAN)
    families = list(teachers["family"])

    def other(figure: Figure) -> None:
        one, two, three, four = figure.subplots(1, 4)
        alignment_plot(one, x, abs(errors), y, abs(errors), families, edge=x > 1)
        softening_curves(two, [0.5, 1, 2, 4], curves, temperatures=np.exp(x), centred=True)
        under_confidence_curve(three, factors, y, y - errors, y + errors)
        temperature_points(four, np.exp(x), abs(errors))

    one = svg(lambda figure: figure_one(figure, teachers, r=(None, None)), width=860, height=440)
    assert one.startswith("<svg")
    assert svg(other, width=1600, height=400).startswith("<svg")
    assert len(one) < 150_000
