"""What committed studies found, collected for `temperance advise`.

    python benchmarks/evidence.py

Reads every folder of `results/` that has the tables of a study (`teachers.csv`, `students.csv`)
and its settings, and writes `src/temperance/studies/evidence.json`. No number is typed by hand: run
it again when a study was added.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from temperance.config import read_yaml
from temperance.data import DataArgs
from temperance.data.catalog import FACTS, dataset_facts
from temperance.errors import UserError
from temperance.studies.arms import WITHOUT_TEACHER
from temperance.studies.evidence import FILE, Evidence, evidence_of, to_json

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TARGET = ROOT / "src" / "temperance" / "studies" / FILE
TABLES = ("teachers.csv", "students.csv", "config.yaml")


def main() -> None:
    found = collected()
    TARGET.write_text(to_json(found), encoding="utf-8")
    print(f"{len(found)} comparisons of {len({one.study for one in found})} studies: {TARGET}")


def collected() -> list[Evidence]:
    """The comparisons of all studies, in the order of their names."""
    folders = sorted(path.parent for path in RESULTS.rglob(TABLES[0]))
    complete = [folder for folder in folders if all((folder / name).is_file() for name in TABLES)]
    return [one for folder in complete for one in of_study(folder)]


def of_study(folder: Path) -> list[Evidence]:
    settings = read_yaml(folder / "config.yaml")
    teachers, students = (pd.read_csv(folder / name) for name in TABLES[:2])
    if "teacher" not in students:
        teachers, students = with_todays_columns(teachers, students, settings)
    name, classes = data_of(settings)
    return evidence_of(
        teachers,
        students,
        study=str(folder.relative_to(RESULTS)),
        data=name,
        classes=classes,
        source=str(folder.relative_to(ROOT)),
    )


def data_of(settings: dict[str, Any]) -> tuple[str, int]:
    """The data's name and number of classes; of files in a folder, by the folder's name."""
    data = settings["data"]
    name = data["name"] if data["name"] != "parquet" else Path(data["path"]).name
    if name not in FACTS:
        raise UserError(f"how many classes has '{name}'?", where="data", mend="Add it to FACTS")
    classes = dataset_facts(DataArgs(name=name)).classes
    if data.get("truth"):
        name += ", labels drawn from a known truth"
    if settings["split"].get("label_noise"):
        name += f", {settings['split']['label_noise']:.0%} of the labels wrong"
    return name, classes


def with_todays_columns(
    teachers: pd.DataFrame, students: pd.DataFrame, settings: dict[str, Any]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables of a study that had one teacher and one student for each replicate."""
    taught = ~students["arm"].isin(WITHOUT_TEACHER)
    names = "r" + students["replicate"].astype(str)
    students = students.assign(
        teacher=names.where(taught),
        family=names.where(taught),
        student=settings["student"]["model"]["name"],
        transfer=pd.Series("in-sample", students.index).where(taught),
        factor=students["arm"].map({"under-confident": settings["calibration"]["underconfidence"]}),
        seed=0,
    )
    if "objective" not in students:
        objective = pd.Series(settings["objective"]["name"], students.index)
        students["objective"] = objective.where(taught)
    names = "r" + teachers["replicate"].astype(str)
    return teachers.assign(teacher=names, family=names), students


if __name__ == "__main__":
    main()
