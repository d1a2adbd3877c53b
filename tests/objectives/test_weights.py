import pytest
from hypothesis import given
from hypothesis import strategies as st

from temperance.errors import UserError
from temperance.objectives import get_objective
from temperance.objectives.dkd import DKD
from temperance.objectives.kd import KD, KDArgs
from temperance.objectives.weights import WeightArgs, constant

shares = st.floats(0, 1)
values = st.floats(0, 100)


@given(values, shares)
def test_a_number_stays(value, progress):
    assert constant(value).at(progress) == value


@pytest.mark.parametrize(
    ("settings", "progress", "expected"),
    [
        ({"value": 2.0, "warmup": 0.5}, 0.0, 0.0),
        ({"value": 2.0, "warmup": 0.5}, 0.125, 0.5),
        ({"value": 2.0, "warmup": 0.5}, 0.5, 2.0),
        ({"value": 2.0, "warmup": 0.5}, 1.0, 2.0),
        ({"value": 2.0, "warmup": 1.0}, 1.0, 2.0),
        ({"value": 2.0, "warmup": 0.0}, 0.0, 2.0),
        ({"value": 1.0, "end": 3.0}, 0.0, 1.0),
        ({"value": 1.0, "end": 3.0}, 0.25, 1.5),
        ({"value": 1.0, "end": 3.0}, 1.0, 3.0),
        ({"value": 1.0, "end": 0.0}, 0.25, 0.75),
        ({"value": 2.0, "end": 0.0, "shape": "cosine"}, 0.0, 2.0),
        ({"value": 2.0, "end": 0.0, "shape": "cosine"}, 1 / 3, 1.5),
        ({"value": 2.0, "end": 0.0, "shape": "cosine"}, 0.5, 1.0),
        ({"value": 2.0, "end": 0.0, "shape": "cosine"}, 1.0, 0.0),
        # A ramp that is being warmed up: the product of both.
        ({"value": 1.0, "end": 3.0, "warmup": 0.5}, 0.25, 0.75),
    ],
)
def test_the_way_of_a_weight(settings, progress, expected):
    assert WeightArgs(**settings).at(progress) == pytest.approx(expected, abs=1e-12)


@given(values, values, shares, shares, st.sampled_from(["linear", "cosine"]))
def test_it_stays_between_zero_and_its_ends(value, end, warmup, progress, shape):
    weight = WeightArgs(value=value, end=end, warmup=warmup, shape=shape).at(progress)
    assert -1e-9 <= weight <= max(value, end) + 1e-9
    if progress >= warmup:
        assert weight >= min(value, end) - 1e-9


def test_a_setting_is_a_number_or_a_mapping():
    assert KD(weight=0.25).args.weight == WeightArgs(value=0.25)
    assert KD(weight=3).args.weight == WeightArgs(value=3.0)
    ramp = KD(weight={"value": 0.5, "end": 0.0}).args.weight
    assert ramp == WeightArgs(value=0.5, end=0.0)


@pytest.mark.parametrize("weight", [0.25, {"value": 0.5, "end": 0.0, "warmup": 0.1}])
def test_stored_settings_give_the_same_weight(weight):
    args = KD(weight=weight).args
    assert KDArgs.model_validate(args.model_dump(mode="json")) == args


@pytest.mark.parametrize(
    ("weight", "named"),
    [
        (-1.0, "weight"),
        (float("nan"), "weight"),
        ("much", "weight"),
        ({"value": 1.0, "warmup": 1.5}, "warmup"),
        ({"value": 1.0, "warmup": -0.1}, "warmup"),
        ({"value": 1.0, "end": -1.0}, "end"),
        ({"value": 1.0, "shape": "step"}, "shape"),
        ({"value": 1.0, "warm_up": 0.5}, "Did you mean 'warmup'"),
    ],
)
def test_what_is_no_weight_is_refused_by_its_name(weight, named):
    with pytest.raises(UserError, match=named):
        KD(weight=weight)


def test_a_mapping_changes_the_default_and_a_number_replaces_it():
    assert KD(weight={"warmup": 0.5}).args.weight == WeightArgs(value=0.9, warmup=0.5)
    ramp = DKD().args.weight
    assert ramp.warmup > 0
    assert DKD(weight={"value": 3.0}).args.weight == WeightArgs(value=3.0, warmup=ramp.warmup)
    assert DKD(weight=3.0).args.weight == WeightArgs(value=3.0)
    combined = get_objective("combined", parts=[{"name": "dkd", "weight": {"end": 0.0}}])
    assert combined.args.parts[0].weight == WeightArgs(value=1.0, warmup=ramp.warmup, end=0.0)
