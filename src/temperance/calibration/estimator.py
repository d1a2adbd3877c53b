"""The scikit-learn face: a classifier and its calibrator as one estimator."""

# ruff: noqa: N803  (X and y are scikit-learn's names)
from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import sklearn
import torch
from jaxtyping import Float, Shaped
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import check_cv, cross_val_predict
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import column_or_1d, get_tags, indexable
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, has_fit_parameter

from temperance.calibration.calibrators import Calibrator, get_calibrator
from temperance.config import Args
from temperance.errors import UserError

RESPONSES = ("decision_function", "predict_log_proba", "predict_proba")  # the first that there is


def _wrapped_decides(classifier: CalibratedClassifier) -> bool:
    return hasattr(classifier.estimator, "decision_function")


class CalibratedClassifier(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose probabilities are calibrated by any calibrator of `list_calibrators()`.

    The classifier is fitted on all rows, the calibrator on what clones of the classifier say about
    the folds that they were fitted without. So no label is held out; it is assumed that the clones
    are as confident as the classifier, which saw more rows. A classifier that is fitted already is
    taken as it is, with `cv="prefit"` or in a `FrozenEstimator`: then `fit` wants rows that it was
    not fitted on.

    What is calibrated are logits: the decision function, where the one number d of two classes
    becomes (0, d), or else log-probabilities. A probability of 0 is a masked class: it stays 0,
    and calibrators that mix the classes refuse it. Where it is that of the true class the loss is
    infinite, and for the fit it counts as the smallest normal number of its type (−708 in float64).
    A few such rows can leave nothing to fit (`uninformative`): with few trees or neighbours,
    choose a `smallest_probability`.

    Args:
        estimator: the classifier; has `decision_function`, `predict_log_proba` or `predict_proba`.
        calibrator: its name, or its settings.
        calibrator_args: settings by name, on top of a name.
        cv: how many stratified folds; a splitter, or its splits; or `"prefit"`. Every row is held
            out once.
        smallest_probability: to which lower ones are raised in fit and prediction, for instance
            half a vote; None for none. Decision functions stay as they are.
        n_jobs: how many folds are fitted at a time; None for 1.

    Attributes:
        estimator_: the fitted classifier.
        calibrator_: the fitted calibrator; its `fit_report` says how far to trust it.
        classes_: the labels in ascending order.
        n_features_in_: as the classifier says, if it does; likewise `feature_names_in_`.

    Examples:
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.naive_bayes import GaussianNB
        >>> X, y = load_iris(return_X_y=True)
        >>> model = CalibratedClassifier(GaussianNB()).fit(X, y)
        >>> round(model.calibrator_.temperature, 2), model.predict_proba(X).shape
        (1.75, (150, 3))
    """

    def __init__(
        self,
        estimator: Any,
        *,
        calibrator: str | Args = "temperature",
        calibrator_args: Mapping[str, Any] | None = None,
        cv: Any = 5,
        smallest_probability: float | None = None,
        n_jobs: int | None = None,
    ) -> None:
        self.estimator = estimator
        self.calibrator = calibrator
        self.calibrator_args = calibrator_args
        self.cv = cv
        self.smallest_probability = smallest_probability
        self.n_jobs = n_jobs

    def fit(
        self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None, **fit_params: Any
    ) -> Self:
        """Fit the classifier, unless it is fitted already, and then the calibrator.

        Warns (`UserWarning`) if nothing could be fitted to these rows, so that the calibrator
        changes nothing.

        Args:
            sample_weight: of the rows, for the calibrator and, if it takes them, the classifier.
            fit_params: for the classifier's `fit`; or for who requested them, if scikit-learn's
                metadata routing is on.

        Raises:
            ValueError: for labels of one class; for folds that train without some class; what the
                classifier raises, and what `Calibrator.fit` does.
        """
        check_classification_targets(y)
        X, y, sample_weight = indexable(X, y, sample_weight)
        labels = column_or_1d(y, warn=True)
        weights = None if sample_weight is None else column_or_1d(sample_weight, dtype=np.float64)
        if weights is not None and not weights.any():
            raise UserError("is zero for every row", where="sample_weight")
        _check_classes(labels if weights is None else labels[weights > 0])
        calibrator = get_calibrator(self.calibrator, **(self.calibrator_args or {}))
        routed = self._route(sample_weight, fit_params)
        if self.cv == "prefit" or isinstance(self.estimator, FrozenEstimator):
            check_is_fitted(self.estimator)
            self.estimator_, self.classes_ = self.estimator, self.estimator.classes_
            response = self._respond(X)
        else:
            response = self._cross_fit(X, labels, routed)
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.estimator_, name):
                setattr(self, name, getattr(self.estimator_, name))
        self.calibrator_ = self._calibrate(calibrator, response, labels, weights)
        return self

    def predict_log_proba(self, X: Any) -> Float[NDArray[np.float64], "rows classes"]:
        """Logarithm of the calibrated probabilities, in the order of `classes_`."""
        return self._calibrated(X).log_softmax(1).numpy()

    def predict_proba(self, X: Any) -> Float[NDArray[np.float64], "rows classes"]:
        """Calibrated probabilities, in the order of `classes_`."""
        return self._calibrated(X).softmax(1).numpy()

    def predict(self, X: Any) -> Shaped[NDArray[Any], " rows"]:
        """The label of the largest calibrated probability."""
        predicted = self._calibrated(X).argmax(1).numpy()
        labels: NDArray[Any] = self.classes_[predicted]
        return labels

    @available_if(_wrapped_decides)  # type: ignore[untyped-decorator]
    def decision_function(self, X: Any) -> Float[NDArray[np.float64], " rows *columns"]:
        """Calibrated logits, or of two classes the log-odds of the second.

        Only if the classifier has a decision function.
        """
        logits = self._calibrated(X)
        return (logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits).numpy()

    def get_metadata_routing(self) -> MetadataRouter:
        """Who can be sent what by `fit`: scikit-learn's metadata routing."""
        return (
            MetadataRouter(owner=self)
            .add_self_request(self)
            .add(
                estimator=self.estimator,
                method_mapping=MethodMapping().add(caller="fit", callee="fit"),
            )
            .add(splitter=self.cv, method_mapping=MethodMapping().add(caller="fit", callee="split"))
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(self.estimator).input_tags
        return tags

    def _route(self, sample_weight: Any, fit_params: dict[str, Any]) -> Any:
        """What the splitter's `split` and the classifier's `fit` get."""
        if sklearn.get_config()["enable_metadata_routing"]:
            return process_routing(self, "fit", sample_weight=sample_weight, **fit_params)
        if sample_weight is not None:
            if has_fit_parameter(self.estimator, "sample_weight"):
                fit_params = {**fit_params, "sample_weight": sample_weight}
            else:
                name = type(self.estimator).__name__
                warnings.warn(
                    f"{name} takes no sample_weight: only the calibrator is weighted",
                    UserWarning,
                    stacklevel=3,
                )
        return {"splitter": {"split": {}}, "estimator": {"fit": fit_params}}

    def _cross_fit(
        self, X: Any, y: NDArray[Any], routed: Any
    ) -> Float[NDArray[Any], " rows *columns"]:
        """Fit it on all rows; return what clones say about folds that they were fitted without."""
        self.classes_ = LabelEncoder().fit(y).classes_
        splitter = check_cv(self.cv, y, classifier=True)
        folds = list(splitter.split(X, y, **routed["splitter"]["split"]))
        for train, _ in folds:
            missing = np.setdiff1d(self.classes_, y[train])
            if len(missing):
                raise UserError(
                    f"a fold would be fitted without the class {missing[0]!r}",
                    where="cv",
                    mend="Choose stratified folds, or give more rows of that class",
                )
        method, params = _response_method(self.estimator), routed["estimator"]["fit"]
        with np.errstate(divide="ignore"):
            response: NDArray[Any] = cross_val_predict(
                self.estimator, X, y, cv=folds, method=method, params=params, n_jobs=self.n_jobs
            )
        self.estimator_ = clone(self.estimator).fit(X, y, **params)
        return response

    def _calibrate(
        self,
        calibrator: Calibrator,
        response: Float[NDArray[Any], " rows *columns"],
        labels: Shaped[NDArray[Any], " rows"],
        weights: Float[NDArray[np.float64], " rows"] | None,
    ) -> Calibrator:
        """The calibrator, fitted on what the classifier says and what is true."""
        encoder = LabelEncoder()
        encoder.classes_ = self.classes_
        targets = encoder.transform(labels)
        logits = self._to_logits(response)
        reasons = ""
        if _response_method(self.estimator_) != "decision_function":
            denied = np.isneginf(logits[np.arange(len(targets)), targets])
            logits[denied, targets[denied]] = np.log(np.finfo(response.dtype).tiny)
            if denied.any():
                reasons = f"; {denied.sum()} true classes have probability 0"
        calibrator.fit(
            torch.from_numpy(logits),
            torch.from_numpy(targets),
            None if weights is None else torch.tensor(weights),
        )
        report = calibrator.fit_report
        if report is not None and not report.usable:
            warnings.warn(
                f"the calibrator '{calibrator.name}' fits nothing to these {report.n} rows and"
                f" leaves the probabilities as they are (status '{report.status}'{reasons})",
                UserWarning,
                stacklevel=3,
            )
        return calibrator

    def _respond(self, X: Any) -> Float[NDArray[Any], " rows *columns"]:
        """What the fitted classifier says."""
        with np.errstate(divide="ignore"):
            return np.asarray(getattr(self.estimator_, _response_method(self.estimator_))(X))

    def _to_logits(
        self, response: Float[NDArray[Any], " rows *columns"]
    ) -> Float[NDArray[np.float64], "rows classes"]:
        """What a classifier says as one column for each class."""
        method = _response_method(self.estimator_)
        values = response
        if method == "predict_proba":
            with np.errstate(divide="ignore"):
                values = np.log(values)
        if values.ndim == 1:
            values = np.stack([np.zeros_like(values), values], axis=1)
        if values.shape[1] != len(self.classes_):
            raise UserError(
                f"its {method} has {values.shape[1]} columns for {len(self.classes_)} classes",
                where="estimator",
            )
        logits = values.astype(np.float64)
        if method != "decision_function" and self.smallest_probability is not None:
            logits = logits.clip(min=np.log(self.smallest_probability))
        return logits

    def _calibrated(self, X: Any) -> Float[torch.Tensor, "rows classes"]:
        check_is_fitted(self)
        logits = torch.from_numpy(self._to_logits(self._respond(X)))
        with torch.no_grad():
            calibrated: torch.Tensor = self.calibrator_(logits)
        return calibrated


def _check_classes(labels: NDArray[Any]) -> None:
    """Refuse rows of which none is of another class than the rest."""
    classes = LabelEncoder().fit(labels).classes_
    if len(classes) < 2:
        raise UserError(
            f"holds {len(classes)} class in {len(labels)} rows",
            where="y",
            mend="Give rows of at least two classes, of weight above 0",
        )


def _response_method(estimator: Any) -> str:
    """How it says what it thinks; found by attributes, as everywhere in scikit-learn."""
    for method in RESPONSES:
        if hasattr(estimator, method):
            return method
    raise UserError(
        f"a {type(estimator).__name__} has none of {', '.join(RESPONSES)}", where="estimator"
    )
