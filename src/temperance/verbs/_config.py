"""`config`: the commented default settings of a verb or a method."""

from __future__ import annotations

from temperance.calibration.calibrators import CALIBRATORS
from temperance.config import Args, commented_yaml, look_up
from temperance.objectives import OBJECTIVES
from temperance.objectives.transforms import TRANSFORMS
from temperance.studies.plan import StudyArgs
from temperance.verbs._advise import AdviseArgs
from temperance.verbs._calibrate import CalibrateArgs
from temperance.verbs._demo import DemoArgs
from temperance.verbs._distill import DistillArgs
from temperance.verbs._measure import MeasureArgs
from temperance.verbs._train import TrainArgs

ARGS: dict[str, type[Args]] = {
    "demo": DemoArgs,
    "train": TrainArgs,
    "measure": MeasureArgs,
    "calibrate": CalibrateArgs,
    "distill": DistillArgs,
    "study": StudyArgs,
    "advise": AdviseArgs,
}


def default_config(name: str) -> str:
    """Every key of a verb, a calibrator, an objective or a transform with its default and what it
    means, as YAML to start from.

    Raises:
        UserError: if there is nothing of that name that has settings.
    """
    calibrators = {known: entry.args_class for known, entry in CALIBRATORS.items()}
    objectives = {known: entry.args_class for known, entry in OBJECTIVES.items()}
    transforms = {known: settings for known, (settings, _) in TRANSFORMS.items()}
    known = {**calibrators, **objectives, **transforms, **ARGS}
    return commented_yaml(look_up("config for", name, known))
