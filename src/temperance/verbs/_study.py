"""`study`: teachers × arms × students; does calibration decide?"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from temperance.data import load_dataset
from temperance.run import identity
from temperance.studies.execute import run_study
from temperance.studies.plan import StudyArgs
from temperance.training import Engine
from temperance.verbs._common import Config, Place, running, settings, shared_dataset


def study(
    config: Config = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    overrides: Sequence[str] = (),
    **values: Any,
):
    place = Place(out, resume, overwrite)
    args = settings(StudyArgs, config, overrides, values, place)
    engine = Engine(args.engine)
    dataset = shared_dataset(args.data, engine)
    digest = identity(args, data=dataset.fingerprint)
    with running("study", args, digest, engine, place) as run:
        return run_study(args, dataset, engine, run, partial(load_dataset, args.data))
