"""`config`: the commented default settings of a verb."""

from __future__ import annotations

from temperance.config import Args, commented_yaml, look_up
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
}


def default_config(verb: str) -> str:
    """Every key of a verb with its default and what it means, as YAML to start from.

    Raises:
        UserError: if the verb has no settings.
    """
    return commented_yaml(look_up("config for the verb", verb, ARGS))
