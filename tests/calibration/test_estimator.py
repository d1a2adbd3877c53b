import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from scipy.sparse import csr_matrix
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import load_digits, make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, cross_val_predict
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from temperance.calibration import fit_temperature, list_calibrators
from temperance.calibration.calibrators import TemperatureArgs
from temperance.calibration.estimator import CalibratedClassifier
from temperance.errors import UserError

# of forests and support vector machines themselves scikit-learn lists the same, and says the same
WEIGHTS_FAIL = {
    f"check_sample_weight_equivalence_on_{kind}_data": (
        "sample_weight is not equivalent to removing/repeating samples."
    )
    for kind in ("dense", "sparse")
}


@pytest.mark.filterwarnings("ignore")  # toy rows are separable, tiny, of one feature…
@parametrize_with_checks(
    [
        CalibratedClassifier(LogisticRegression(), cv=3),
        CalibratedClassifier(GaussianNB(), calibrator_args={"highest": 10.0}, cv=2),
        CalibratedClassifier(RandomForestClassifier(3, random_state=0), cv=2),
    ],
    expected_failed_checks=lambda model: (
        WEIGHTS_FAIL if isinstance(model.estimator, RandomForestClassifier) else {}
    ),
)
def test_scikit_learn_accepts_it(estimator, check):
    check(estimator)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(
    [
        CalibratedClassifier(RidgeClassifier(), cv=3),
        CalibratedClassifier(
            DecisionTreeClassifier(random_state=0), smallest_probability=0.01, cv=2
        ),
        CalibratedClassifier(SVC(), cv=2),
    ],
    expected_failed_checks=lambda model: WEIGHTS_FAIL if isinstance(model.estimator, SVC) else {},
)
def test_scikit_learn_accepts_more_of_it(estimator, check):
    check(estimator)


@pytest.fixture(scope="module", params=[2, 4], ids=["two classes", "four classes"])
def rows(request):
    """Half of some rows with noisy labels, and the other half."""
    X, y = make_classification(
        1200, n_informative=6, n_classes=request.param, flip_y=0.2, random_state=0
    )
    return (X[::2], y[::2]), (X[1::2], y[1::2])


def log_loss(log_probability, y):
    return -log_probability[np.arange(len(y)), y].mean()


# What is fitted.


def test_temperature_is_that_of_the_held_out_decision_functions(rows):
    (X, y), _ = rows
    model = CalibratedClassifier(RidgeClassifier(), cv=4).fit(X, y)
    decision = cross_val_predict(RidgeClassifier(), X, y, cv=4, method="decision_function")
    if decision.ndim == 1:
        decision = np.stack([np.zeros_like(decision), decision], axis=1)
    fit = fit_temperature(torch.from_numpy(decision), torch.from_numpy(y))
    assert model.calibrator_.temperature == fit.temperature
    whole = RidgeClassifier().fit(X, y).decision_function(X)
    np.testing.assert_allclose(model.decision_function(X), whole / fit.temperature, rtol=1e-12)


def test_temperature_is_that_of_scikit_learn(rows):
    if tuple(int(part) for part in sklearn.__version__.split(".")[:2]) < (1, 8):
        pytest.skip("scikit-learn has temperature scaling since 1.8")
    from sklearn.calibration import CalibratedClassifierCV

    (X, y), (X_new, _) = rows
    weight = np.random.default_rng(0).uniform(0.5, 2, len(y))
    for sample_weight in (None, weight):
        ours = CalibratedClassifier(LogisticRegression(C=100), cv=3)
        theirs = CalibratedClassifierCV(
            LogisticRegression(C=100), method="temperature", cv=3, ensemble=False
        )
        for model in (ours, theirs):
            model.fit(X, y, sample_weight=sample_weight)
        scale = theirs.calibrated_classifiers_[0].calibrators[0].beta_
        both = 2 if len(ours.classes_) == 2 else 1  # they write two classes as (−d, d)
        assert ours.calibrator_.temperature == pytest.approx(1 / (both * scale), rel=1e-4)
        expected = theirs.predict_proba(X_new)
        np.testing.assert_allclose(ours.predict_proba(X_new), expected, atol=1e-5)


def test_a_fitted_classifier_is_taken_as_it_is(rows):
    (X, y), (X_other, y_other) = rows
    fitted = GaussianNB().fit(X, y)
    before = pickle.dumps(fitted)
    prefit = CalibratedClassifier(fitted, cv="prefit").fit(X_other, y_other)
    frozen = CalibratedClassifier(FrozenEstimator(fitted)).fit(X_other, y_other)
    logits = torch.from_numpy(fitted.predict_log_proba(X_other))
    fit = fit_temperature(logits, torch.from_numpy(y_other))
    assert prefit.estimator_ is fitted
    assert pickle.dumps(fitted) == before
    assert prefit.calibrator_.temperature == frozen.calibrator_.temperature == fit.temperature
    assert prefit.calibrator_.fit_report.n == len(y_other)


def test_weights_count_rows(rows):
    (X, y), (X_other, y_other) = rows
    fitted = GaussianNB().fit(X, y)
    weight = np.arange(len(y_other)) % 3
    repeated = np.repeat(np.arange(len(y_other)), weight)
    one = CalibratedClassifier(fitted, cv="prefit").fit(X_other, y_other, sample_weight=weight)
    other = CalibratedClassifier(fitted, cv="prefit").fit(X_other[repeated], y_other[repeated])
    assert one.calibrator_.temperature == pytest.approx(other.calibrator_.temperature, rel=1e-9)


@pytest.mark.parametrize("name", list_calibrators())
def test_any_calibrator_improves_the_held_out_log_loss(rows, name):
    (X, y), (X_new, y_new) = rows
    raw = GaussianNB().fit(X, y)
    model = CalibratedClassifier(GaussianNB(), calibrator=name, cv=3).fit(X, y)
    assert model.calibrator_.name == name
    calibrated = log_loss(model.predict_log_proba(X_new), y_new)
    assert calibrated < log_loss(raw.predict_log_proba(X_new), y_new)
    np.testing.assert_allclose(model.predict_proba(X_new).sum(1), 1)
    np.testing.assert_allclose(np.exp(model.predict_log_proba(X_new)), model.predict_proba(X_new))


def test_settings_come_by_name_or_as_an_object(rows):
    (X, y), _ = rows
    named = CalibratedClassifier(GaussianNB(), calibrator_args={"highest": 1.5}).fit(X, y)
    settings = TemperatureArgs(highest=1.5)
    given = CalibratedClassifier(GaussianNB(), calibrator=settings).fit(X, y)
    assert named.calibrator_.args == given.calibrator_.args == settings
    assert named.calibrator_.temperature == given.calibrator_.temperature


# What it says.


def test_predictions_are_those_of_the_classifier(rows):
    (X, y), (X_new, _) = rows
    model = CalibratedClassifier(LogisticRegression()).fit(X, y)
    raw = LogisticRegression().fit(X, y)
    assert (model.predict(X_new) == raw.predict(X_new)).all()
    decision = model.decision_function(X_new)
    two = decision.ndim == 1
    logits = np.stack([0 * decision, decision], 1) if two else decision
    np.testing.assert_allclose(model.predict_log_proba(X_new), log_softmax(logits, 1), atol=1e-12)


def test_decision_function_is_there_if_the_classifier_has_one():
    assert hasattr(CalibratedClassifier(SVC()), "decision_function")
    assert not hasattr(CalibratedClassifier(GaussianNB()), "decision_function")


def test_labels_may_be_words_rows_a_frame_or_sparse(rows):
    (X, y), _ = rows
    words = np.array(["ant", "bee", "cow", "dog"])[y]
    plain = CalibratedClassifier(LogisticRegression()).fit(X, y)
    frame = pd.DataFrame(X).add_prefix("x")
    named = CalibratedClassifier(LogisticRegression()).fit(frame, pd.Series(words))
    sparse = CalibratedClassifier(LogisticRegression()).fit(csr_matrix(X), words)
    assert list(named.feature_names_in_) == list(frame.columns)
    assert named.n_features_in_ == X.shape[1]
    assert list(named.classes_) == sorted(set(words))
    assert (named.predict(frame) == named.classes_[plain.predict(X)]).all()
    np.testing.assert_allclose(named.predict_proba(frame), plain.predict_proba(X), rtol=1e-9)
    np.testing.assert_allclose(sparse.predict_proba(csr_matrix(X)), plain.predict_proba(X),
                               atol=1e-3)  # fmt: skip


# Probabilities of 0, and far below.


def test_a_probability_of_0_stays_and_that_of_the_true_class_counts_as_the_smallest_number():
    X, y = np.zeros((200, 1)), np.arange(200) % 10 // 4  # 40 %, 40 %, 20 %

    class Votes(ClassifierMixin, BaseEstimator):
        """Says (0.9, 0.1, 0)."""

        def fit(self, X, y):  # noqa: N803
            self.classes_ = np.unique(y)
            return self

        def predict_proba(self, X):  # noqa: N803
            return np.tile([0.9, 0.1, 0.0], (len(X), 1))

    with pytest.warns(UserWarning, match="to these 200 rows .* 40 true classes have probability 0"):
        model = CalibratedClassifier(Votes().fit(X, y), cv="prefit").fit(X, y)
    logits = np.tile(np.log([0.9, 0.1, np.finfo(float).tiny]), (200, 1))
    logits[y != 2, 2] = -np.inf
    fit = fit_temperature(torch.from_numpy(logits), torch.from_numpy(y))
    assert model.calibrator_.fit_report == fit
    np.testing.assert_allclose(model.predict_proba(X[:1]), [[0.9, 0.1, 0]])

    raised = CalibratedClassifier(Votes().fit(X, y), cv="prefit", smallest_probability=0.05)
    raised.fit(X, y)
    assert raised.calibrator_.fit_report.usable
    assert raised.predict_proba(X[:1])[0, 2] > 0.05


def test_a_forest_with_few_trees_is_mended_by_half_a_vote():
    X, y = load_digits(return_X_y=True)
    X, y, X_new, y_new = X[::2], y[::2], X[1::2], y[1::2]
    forest = RandomForestClassifier(10, random_state=0)
    model = CalibratedClassifier(forest, smallest_probability=0.05).fit(X, y)
    assert model.calibrator_.fit_report.usable
    with np.errstate(divide="ignore"):
        raw = model.estimator_.predict_log_proba(X_new)
    raised = np.maximum(raw, np.log(0.05))
    before = log_loss(log_softmax(raised, 1), y_new)
    assert log_loss(model.predict_log_proba(X_new), y_new) < before


def test_log_probabilities_below_the_smallest_number_are_not_rounded():
    rng = np.random.default_rng(0)
    y = np.arange(300) % 2
    X = rng.normal(size=(300, 1)) + y[:, None]
    X = np.repeat(X, 2000, axis=1) + 1e-3 * rng.normal(size=(300, 2000))  # one feature, 2000 times
    model = CalibratedClassifier(GaussianNB(), calibrator_args={"highest": 1e5}).fit(X, y)
    assert model.estimator_.predict_log_proba(X).min() < -1000
    assert 500 < model.calibrator_.temperature < 8000


# What does not fit.


def test_a_calibrator_that_fits_nothing_says_so_and_changes_nothing():
    X = np.repeat([[-1.0], [1.0]], 20, axis=0)
    y = np.repeat([0, 1], 20)
    with pytest.warns(UserWarning, match=r"'temperature' fits nothing .*\(status 'separable'\)"):
        model = CalibratedClassifier(LogisticRegression()).fit(X, y)
    assert not model.calibrator_.fit_report.usable
    raw = LogisticRegression().fit(X, y)
    np.testing.assert_allclose(model.predict_proba(X), raw.predict_proba(X))


@pytest.mark.parametrize(
    ("classifier", "y", "sample_weight", "message"),
    [
        (LogisticRegression(), np.zeros(30), None, "y: holds 1 class in 30 rows"),
        (LogisticRegression(), np.arange(30) % 2, np.arange(30) % 2, "y: holds 1 class in 15 rows"),
        (LogisticRegression(), np.arange(30) % 2, np.zeros(30), "zero for every row"),
        (StandardScaler(), np.arange(30) % 2, None, "a StandardScaler has none of decision_fun"),
        (SVC(decision_function_shape="ovo"), np.arange(30) % 4, None, "6 columns for 4 classes"),
    ],
)
def test_refuses(classifier, y, sample_weight, message):
    X = np.random.default_rng(0).normal(size=(30, 2))
    with pytest.raises(UserError, match=message):
        CalibratedClassifier(classifier, cv=3).fit(X, y, sample_weight=sample_weight)


def test_refuses_folds_that_leave_a_class_out_and_labels_that_nobody_knows(rows):
    (X, y), (X_other, y_other) = rows
    ordered = np.argsort(y, kind="stable")
    with pytest.raises(UserError, match="a fold would be fitted without the class"):
        CalibratedClassifier(GaussianNB(), cv=KFold(len(set(y)))).fit(X[ordered], y[ordered])
    prefit = CalibratedClassifier(GaussianNB().fit(X, y), cv="prefit")
    with pytest.raises(ValueError, match="unseen labels"):
        prefit.fit(X_other, y_other + 1)


# Among scikit-learn's own.


def test_it_can_be_searched_cloned_and_pickled(rows):
    (X, y), (X_new, _) = rows
    model = CalibratedClassifier(GaussianNB(), cv=2)
    grid = {"estimator__var_smoothing": [1e-9, 1.0], "calibrator_args": [None, {"highest": 1.1}]}
    search = GridSearchCV(model, grid, scoring="neg_log_loss", cv=2).fit(X, y)
    assert search.best_params_["calibrator_args"] is None
    best = search.best_estimator_
    assert clone(best).get_params()["cv"] == 2
    again = pickle.loads(pickle.dumps(best))
    assert (again.predict_proba(X_new) == best.predict_proba(X_new)).all()


def test_weights_reach_a_classifier_that_takes_them(rows):
    (X, y), _ = rows
    weight = 1.0 + (y == 0)
    model = CalibratedClassifier(GaussianNB()).fit(X, y, sample_weight=weight)
    expected = GaussianNB().fit(X, y, sample_weight=weight).class_prior_
    np.testing.assert_allclose(model.estimator_.class_prior_, expected)
    model = CalibratedClassifier(KNeighborsClassifier(40), smallest_probability=0.01)
    with pytest.warns(UserWarning, match="KNeighborsClassifier takes no sample_weight"):
        model.fit(X, y, sample_weight=weight)


def test_metadata_goes_where_it_was_requested(rows):
    (X, y), _ = rows
    weight = 1.0 + (y == 0)
    groups = np.arange(len(y)) // 3
    expected = CalibratedClassifier(GaussianNB(), cv=list(GroupKFold(3).split(X, y, groups)))
    expected.fit(X, y, sample_weight=weight)
    with sklearn.config_context(enable_metadata_routing=True):
        classifier = GaussianNB().set_fit_request(sample_weight=True)
        model = CalibratedClassifier(classifier, cv=GroupKFold(3))
        model.fit(X, y, sample_weight=weight, groups=groups)
        assert model.calibrator_.temperature == expected.calibrator_.temperature
        assert (model.estimator_.class_prior_ == expected.estimator_.class_prior_).all()
        with pytest.raises(UnsetMetadataPassedError):
            CalibratedClassifier(GaussianNB()).fit(X, y, sample_weight=weight)


def test_scikit_learn_is_imported_by_those_who_use_it_only():
    code = "import sys, temperance.calibration; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
