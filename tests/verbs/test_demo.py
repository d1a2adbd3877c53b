from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

SMALLEST = (
    *("replicates=2", "calibration.folds=2"),
    *("teacher.training.epochs=2", "teacher.model.width=8"),
    *("student.training.epochs=1", "student.model.width=8"),
)
MODELS = 2 * (1 + 2 + 2 + 4 * 2)
MEASURED = 2  # teachers, each in a folder of its own


@pytest.fixture(scope="module")
def demo(
    tmp_path_factory: pytest.TempPathFactory, succeeds: Callable[..., Any]
) -> tuple[Path, str]:
    """A finished demo and what it printed; nobody may write into it."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    return folder, succeeds("demo", *SMALLEST, "--out", folder).out


@pytest.fixture
def copy(demo: tuple[Path, str], tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo[0], tmp_path / "run"))


def written(study: Path) -> dict[str, int]:
    """When each run of the study wrote its results and its student."""
    names = ("result.json", "study.json", "student/model.safetensors")
    files = [file for name in names for file in study.glob(f"runs/*/{name}")]
    return {str(file.relative_to(study)): file.stat().st_mtime_ns for file in files}


def without_times(study: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(study / f"{name}.csv", dtype=str).drop(columns="seconds")


def test_everything_is_there(demo: tuple[Path, str]) -> None:
    folder, out = demo
    assert "− labels+calibration" in out
    assert "calibrated − constant-T (τ = 4)" in out
    assert str(folder / "report.html") in out
    found = json.loads((folder / "metrics.json").read_text())
    assert len(found["sentences"]) == 2
    for sentence in found["sentences"]:
        assert " ".join(sentence.split()) in " ".join(out.split())
    standings = [contrast["standing"] for contrast in found["contrasts"]]
    assert standings == ["primary"] + ["exploratory"] * (len(standings) - 1)
    assert all(contrast["difference"]["n"] == 2 for contrast in found["contrasts"])
    assert len(list((folder / "runs").iterdir())) == MODELS + MEASURED
    for name, rows in (("teachers", 2), ("students", 20)):
        frame = pd.read_csv(folder / f"{name}.csv")
        assert len(frame) == rows
        pd.testing.assert_frame_equal(frame, pd.read_parquet(folder / f"{name}.parquet"),
                                      check_dtype=False)  # fmt: skip
    assert "Teachers" in (folder / "report.html").read_text()


def test_labels_are_equal_where_they_are_said_to_be(demo: tuple[Path, str]) -> None:
    students = pd.read_csv(demo[0] / "students.csv")
    rows = students.groupby("arm")["train_rows"].unique().map(list).to_dict()
    (fewer,) = rows.pop("labels")
    assert len({count for counts in rows.values() for count in counts}) == 1
    assert rows["labels+calibration"][0] > fewer
    assert students["test_rows"].nunique() == 1


def test_temperatures_are_what_the_arms_say(demo: tuple[Path, str]) -> None:
    students, teachers = (pd.read_csv(demo[0] / f"{name}.csv") for name in ("students", "teachers"))
    fitted = teachers.set_index("replicate")["T"]
    assert fitted.nunique() == 2  # every replicate has its own teacher
    constant = (fitted[0] * fitted[1]) ** 0.5
    expected = {
        "raw": lambda replicate: 1.0,
        "calibrated": lambda replicate: fitted[replicate],
        "under-confident": lambda replicate: 2 * fitted[replicate],
        "constant-T": lambda replicate: constant,
    }
    taught = students[students["softening"].notna()]
    assert set(taught["arm"]) == set(expected)
    for row in taught.itertuples():
        assert pytest.approx(expected[row.arm](row.replicate)) == row.T
    assert students.loc[students["softening"].isna(), "T"].isna().all()


def test_resuming_a_finished_study_trains_nothing(
    copy: Path, succeeds: Callable[..., Any], demo: tuple[Path, str]
) -> None:
    before = written(copy)
    assert len(before) == 3 * MODELS + MEASURED
    done = succeeds("demo", *SMALLEST, "--resume", "--out", copy)
    assert written(copy) == before
    for name in ("students.csv", "teachers.csv", "metrics.json"):
        assert (copy / name).read_bytes() == (demo[0] / name).read_bytes()
    table = demo[1].partition("Report: ")[0]
    assert done.out.startswith(table)


def test_resuming_trains_only_what_is_missing(
    copy: Path, succeeds: Callable[..., Any], demo: tuple[Path, str]
) -> None:
    students = pd.read_csv(copy / "students.csv")
    (lost,) = students.query("arm == 'calibrated' and replicate == 1 and softening == 4")["run"]
    assert lost.startswith("r1-teacher-student-T")
    assert "-kd-tau4-seed1-" in lost
    shutil.rmtree(copy / "runs" / lost)
    before = written(copy)
    succeeds("demo", "--resume", "--out", copy)  # with its own settings
    after = written(copy)
    assert {file for file in after if after[file] != before.get(file)} == {
        f"runs/{lost}/{name}" for name in ("result.json", "study.json", "student/model.safetensors")
    }
    for name in ("students", "teachers"):
        pd.testing.assert_frame_equal(without_times(copy, name), without_times(demo[0], name))


def test_a_study_dies_and_goes_on(
    tmp_path: Path, succeeds: Callable[..., Any], killed_at: Callable[..., None],
    demo: tuple[Path, str],
) -> None:  # fmt: skip
    run = tmp_path / "run"
    killed_at(10, "demo", *SMALLEST, "--out", run)
    assert not (run / "students.csv").exists()
    succeeds("demo", *SMALLEST, "--resume", "--out", run)
    for name in ("students", "teachers"):
        pd.testing.assert_frame_equal(without_times(run, name), without_times(demo[0], name))


def test_a_study_grows(copy: Path, succeeds: Callable[..., Any]) -> None:
    """Replicates that are added do not repeat those that are done."""
    before = written(copy)
    succeeds("demo", *SMALLEST, "replicates=3", "--resume", "--out", copy)
    after = written(copy)
    assert {file: after[file] for file in before} == before
    students = pd.read_csv(copy / "students.csv")
    assert students["replicate"].nunique() == 3


@pytest.mark.parametrize(
    "settings",
    [
        ("arms=[labels,labels+calibration]",),
        ("arms=[raw]", "softenings=[1]"),
        ("arms=[labels,raw]", "calibration.fit=held-out"),
    ],
    ids=" ".join,
)
def test_studies_of_fewer_arms(
    settings: tuple[str, ...], tmp_path: Path, succeeds: Callable[..., Any]
) -> None:
    succeeds("demo", *SMALLEST, "replicates=1", *settings, "--out", tmp_path / "run")
    assert (tmp_path / "run" / "report.html").is_file()


def test_the_report_is_written_again_from_the_folder(
    copy: Path, succeeds: Callable[..., Any], demo: tuple[Path, str]
) -> None:
    (copy / "report.html").unlink()
    succeeds("report", copy)
    assert (copy / "report.html").read_bytes() == (demo[0] / "report.html").read_bytes()


def test_the_report_opens_quietly_and_asks_for_nothing(
    demo: tuple[Path, str], browse: Callable[..., Any]
) -> None:
    file = demo[0] / "report.html"
    page = browse(file)
    assert page.console_errors == []
    assert {url for url in page.requests if not url.startswith("data:")} == {file.as_uri()}
    assert "Does calibrating the teacher help?" in page.title
    for sentence in json.loads((demo[0] / "metrics.json").read_text())["sentences"]:
        assert sentence in page.text
