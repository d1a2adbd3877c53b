"""The one explicit list of single methods; wrappers and combinations are made of them."""

from __future__ import annotations

from temperance.objectives.base import LogitObjective, Objective
from temperance.objectives.feature_base import FeatureObjective
from temperance.objectives.kd import KD
from temperance.objectives.labels import Labels

LOGIT_METHODS: tuple[type[LogitObjective], ...] = (KD,)
"""Compare logits; logit standardisation can wrap each of them."""

FEATURE_METHODS: tuple[type[FeatureObjective], ...] = ()
"""Compare inner activations."""

METHODS: tuple[type[Objective], ...] = (Labels, *LOGIT_METHODS, *FEATURE_METHODS)
