import json

import numpy as np
import pytest
import torch

from reference.nonparametric_oracles import paired_standard_error
from temperance.calibration import (
    CALIBRATORS,
    get_calibrator,
    load_calibrator,
    negative_log_likelihood,
    save_calibrator,
)
from temperance.calibration.calibrators.auto import AutoCalibrator, default_candidates
from temperance.calibration.rows import CalibrationRows
from temperance.errors import UserError

FAST = ["temperature", "irm", "isotonic"]


@pytest.fixture
def biased(sampled):
    """The model is blind to some classes' frequency: one temperature is not enough."""

    def draw(rows=1500, seed=0):
        logits, _ = sampled(rows=rows, classes=4, seed=seed)
        truth = logits + torch.tensor([3.0, 0.0, -1.0, 1.0], dtype=torch.float64)
        generator = torch.Generator().manual_seed(seed + 100)
        return 2 * logits, torch.multinomial(truth.softmax(1), 1, generator=generator)[:, 0]

    return draw


def test_chooses_temperature_where_that_is_all_there_is(sampled):
    candidates = ["temperature", "ensemble", "predicted-class", "vector", "irm"]
    chosen = []
    for seed in range(8):
        rows = sampled(rows=400, temperature=2.0, seed=seed)
        chosen.append(AutoCalibrator(candidates=candidates).fit(*rows).chosen.name)
    # by chance a richer one is more than one standard error better now and then
    assert chosen.count("temperature") >= 6


def test_says_what_it_chose_and_why(sampled):
    calibrator = AutoCalibrator().fit(*sampled(rows=200, temperature=2.0))
    notes = calibrator.fit_report.notes
    assert notes["chosen"] == calibrator.chosen.name
    assert notes["why"].startswith(f"{calibrator.chosen.name}: ")
    assert list(notes["candidates"]) == list(default_candidates(200, 7))
    assert calibrator.keeps_argmax == calibrator.chosen.keeps_argmax


def test_chooses_more_where_every_class_is_off_in_its_own_way(biased):
    logits, targets = biased()
    calibrator = AutoCalibrator().fit(logits, targets)
    assert calibrator.chosen.name != "temperature"
    assert not calibrator.keeps_argmax
    candidates = calibrator.fit_report.notes["candidates"]
    gap = candidates["temperature"]
    assert gap["difference"] > 5 * gap["standard_error"]
    at, new = biased(seed=1)
    simple = get_calibrator("temperature").fit(logits, targets)
    assert negative_log_likelihood(calibrator(at), new) < negative_log_likelihood(simple(at), new)


@pytest.mark.parametrize("grouped", [False, True])
def test_numbers_and_rule_by_hand(grouped, biased):
    logits, targets = biased(rows=120)
    weights = torch.rand(120, generator=torch.Generator().manual_seed(5)).double() + 0.1
    groups = torch.arange(120) // 4 if grouped else None
    calibrator = AutoCalibrator(candidates=FAST, folds=3, seed=7)
    calibrator.fit(logits, targets, weights, groups=groups)
    found = calibrator.fit_report.notes["candidates"]

    fold_of = CalibrationRows(logits, targets, weights, groups).folds(3, 7)
    nll = {name: np.zeros(120) for name in FAST}
    for fold in range(3):
        out = fold_of == fold
        for name in FAST:
            other = get_calibrator(name).fit(logits[~out], targets[~out], weights[~out])
            log_probability = other(logits[out]).log_softmax(1)
            nll[name][out] = -log_probability[torch.arange(int(out.sum())), targets[out]].numpy()
    share = weights.numpy()
    mean = {name: np.average(values, weights=share) for name, values in nll.items()}
    best = min(mean, key=mean.get)
    clusters = np.arange(120) if groups is None else groups.numpy()
    for name in FAST:
        difference = nll[name] - nll[best]
        error = paired_standard_error(difference, share, clusters)
        expected = [mean[name], mean[name] - mean[best], error]
        assert list(found[name].values()) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    within = [name for name in FAST if found[name]["difference"] <= found[name]["standard_error"]]
    assert calibrator.chosen.name == within[0]


def test_the_simplest_within_one_standard_error_wins(sampled):
    rows = sampled(rows=400, temperature=2.0)
    first = {}
    for names in (["temperature", "mixture"], ["mixture", "temperature"]):
        calibrator = AutoCalibrator(candidates=names).fit(*rows)
        notes = calibrator.fit_report.notes
        first[calibrator.chosen.name] = notes
        assert notes["chosen"] == names[0]
    worse = max(first.values(), key=lambda notes: notes["candidates"][notes["chosen"]]["nll"])
    assert "simplest of 2 candidates within one standard error" in worse["why"]
    assert "±" in worse["why"]
    better = min(first.values(), key=lambda notes: notes["candidates"][notes["chosen"]]["nll"])
    assert "lowest cross-validated NLL of 2 candidates" in better["why"]


def test_the_chosen_one_is_fitted_on_all_rows(biased):
    logits, targets = biased()
    calibrator = AutoCalibrator(candidates=FAST).fit(logits, targets)
    alone = get_calibrator(calibrator.chosen.name).fit(logits, targets)
    assert torch.equal(calibrator(logits), alone(logits))
    assert calibrator.fit_report.nll_after == alone.fit_report.nll_after
    assert calibrator.chosen.fit_report == alone.fit_report


@pytest.mark.parametrize("draw", ["sampled", "biased"])
def test_saved_and_loaded(draw, request, tmp_path):
    logits, targets = request.getfixturevalue(draw)(rows=400)
    calibrator = AutoCalibrator(candidates=FAST).fit(logits, targets).tempered(1.5)
    save_calibrator(calibrator, tmp_path)
    again = load_calibrator(tmp_path)
    assert isinstance(again, AutoCalibrator)
    assert torch.equal(again(logits), calibrator(logits))
    assert again.keeps_argmax == calibrator.keeps_argmax
    assert again.record() == calibrator.record() == json.loads(json.dumps(calibrator.record()))


def test_state_and_record_in_either_order(biased):
    logits, targets = biased(rows=400)
    calibrator = AutoCalibrator(candidates=["temperature", "isotonic"]).fit(logits, targets)
    for steps in (("state", "record"), ("record", "state")):
        again = AutoCalibrator(candidates=["temperature", "isotonic"])
        for step in steps:
            if step == "state":
                again.load_state_dict(calibrator.state_dict())
            else:
                again.restore(calibrator.record())
        assert torch.equal(again(logits), calibrator(logits))
        assert again.chosen.record() == calibrator.chosen.record()


def test_fitting_again_forgets_the_first_choice(sampled, biased):
    calibrator = AutoCalibrator(candidates=["temperature", "isotonic"])
    assert calibrator.fit(*biased()).chosen.name == "isotonic"
    assert calibrator.fit(*sampled(temperature=2.0)).chosen.name == "temperature"
    assert len(calibrator.state_dict()) == 1


@pytest.mark.parametrize(
    ("candidates", "chosen", "usable"),
    [(None, "temperature", False), (["temperature", "mixture"], "mixture", True)],
)
def test_separable_rows(candidates, chosen, usable):
    logits, targets = 3 * torch.eye(3).repeat(4, 1), torch.arange(3).repeat(4)
    calibrator = AutoCalibrator(candidates=candidates).fit(logits, targets)
    report = calibrator.fit_report
    assert (report.status, report.usable) == ("separable", usable)
    assert (report.notes["chosen"], report.notes["candidates"]) == (chosen, {})
    assert torch.equal(calibrator(logits), logits) != usable


def test_one_candidate_needs_no_folds(sampled):
    notes = AutoCalibrator(candidates=["irm"]).fit(*sampled()).fit_report.notes
    assert notes["chosen"] == "irm"
    assert notes["candidates"] == {}


def test_fewer_groups_than_folds(biased):
    logits, targets = biased(rows=200)
    groups = torch.arange(200) % 3
    calibrator = AutoCalibrator(candidates=FAST).fit(logits, targets, groups=groups)
    assert set(calibrator.fit_report.notes["candidates"]) == set(FAST)
    two = AutoCalibrator(candidates=FAST).fit(logits, targets, groups=groups % 2, cross_fit=2)
    assert two.fit_report.cross_fit.folds == 2


def test_masked_classes(biased):
    logits, targets = biased(rows=800)
    logits[targets != 1, 1] = -torch.inf
    calibrator = AutoCalibrator().fit(logits, targets)
    assert not {"matrix", "dirichlet"} & set(calibrator.fit_report.notes["candidates"])
    assert torch.equal(calibrator(logits).isneginf(), logits.isneginf())


def test_default_candidates_are_known_and_need_ten_rows_a_number():
    assert default_candidates(5, 10) == ("temperature",)
    everything = default_candidates(10**7, 10)
    assert set(everything) == set(CALIBRATORS) - {"auto", "mixture"}
    assert default_candidates(199, 10).count("vector") == 0
    assert default_candidates(200, 10).count("vector") == 1


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        (["temprature"], "no candidate 'temprature'. Did you mean 'temperature'"),
        (["auto"], "no candidate 'auto'"),
        ([], "candidates"),
    ],
)
def test_candidates_that_make_no_sense(candidates, message):
    with pytest.raises(UserError, match=message):
        AutoCalibrator(candidates=candidates)


def test_nothing_is_chosen_before_the_fit():
    with pytest.raises(UserError, match="not fitted"):
        _ = AutoCalibrator().chosen
