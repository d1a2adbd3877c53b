"""The one explicit list of single methods; wrappers and combinations are made of them.

Other packages add theirs by entry points of the group `temperance.objectives`.
"""

from __future__ import annotations

from temperance.config import by_name, plugged_in
from temperance.objectives.ats import ATS
from temperance.objectives.attention import AttentionTransfer
from temperance.objectives.base import LogitObjective, Objective
from temperance.objectives.cc import CC
from temperance.objectives.cist import CIST
from temperance.objectives.crd import CRD
from temperance.objectives.ctkd import CTKD
from temperance.objectives.dist import DIST
from temperance.objectives.dkd import DKD
from temperance.objectives.feature_base import FeatureObjective
from temperance.objectives.fitnet import FitNet
from temperance.objectives.jensen_shannon import JensenShannon
from temperance.objectives.kd import KD
from temperance.objectives.labels import Labels
from temperance.objectives.logit_mse import LogitMSE
from temperance.objectives.mlkd import MLKD
from temperance.objectives.nkd import NKD
from temperance.objectives.nst import NST
from temperance.objectives.ofd import OFD
from temperance.objectives.pkt import PKT
from temperance.objectives.reverse_kl import ReverseKL
from temperance.objectives.reviewkd import ReviewKD
from temperance.objectives.rkd import RKD
from temperance.objectives.sp import SP
from temperance.objectives.srrl import SRRL
from temperance.objectives.ttm import TTM
from temperance.objectives.vid import VID
from temperance.objectives.wsld import WSLD
from temperance.objectives.wttm import WTTM

_PLUGINS = plugged_in("objectives", Objective)

LOGIT_METHODS: tuple[type[LogitObjective], ...] = (
    KD,
    DKD,
    NKD,
    MLKD,
    CTKD,
    DIST,
    WSLD,
    ATS,
    TTM,
    WTTM,
    CIST,
    ReverseKL,
    JensenShannon,
    LogitMSE,
    *(plugin for plugin in _PLUGINS if issubclass(plugin, LogitObjective)),
)
"""Compare logits; logit standardisation can wrap each of them."""

FEATURE_METHODS: tuple[type[FeatureObjective], ...] = (
    FitNet,
    AttentionTransfer,
    SP,
    RKD,
    PKT,
    NST,
    VID,
    CC,
    CRD,
    ReviewKD,
    OFD,
    SRRL,
)
"""Compare inner activations."""

METHODS: tuple[type[Objective], ...] = (
    Labels,
    *LOGIT_METHODS,
    *FEATURE_METHODS,
    *(plugin for plugin in _PLUGINS if not issubclass(plugin, LogitObjective)),
)

BY_NAME: dict[str, type[Objective]] = by_name("objective", METHODS)
