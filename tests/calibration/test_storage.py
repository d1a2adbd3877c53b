import json
import os

import pytest
import torch

from temperance.calibration import TemperatureScaling, load_calibrator, save_calibrator
from temperance.errors import UserError


@pytest.fixture
def saved(tmp_path, sampled):
    calibrator = TemperatureScaling().fit(*sampled(temperature=2.0)).tempered(1.5)
    save_calibrator(calibrator, tmp_path / "run")
    return calibrator, tmp_path / "run"


def test_round_trip_from_the_folder_and_from_the_json(saved):
    calibrator, folder = saved
    assert sorted(path.name for path in folder.iterdir()) == [
        "calibrator.json",
        "calibrator.safetensors",
    ]
    for path in (folder, str(folder / "calibrator.json")):
        again = load_calibrator(path)
        assert isinstance(again, TemperatureScaling)
        assert again.temperature == calibrator.temperature
        assert again.factor == 1.5
        assert again.fit_report == calibrator.fit_report


def test_a_given_temperature_has_no_fit(tmp_path):
    save_calibrator(TemperatureScaling.from_temperature(0.1 + 0.2), tmp_path)
    again = load_calibrator(tmp_path)
    assert again.temperature == 0.1 + 0.2
    assert again.fit_report is None


def test_the_json_says_what_it_is(saved):
    calibrator, folder = saved
    record = json.loads((folder / "calibrator.json").read_text())
    assert record["name"] == "temperature"
    assert record["temperature"] == calibrator.temperature
    assert record["fit"]["status"] == "converged"
    assert {"schema", "temperance", "factor", "tensors_sha256"} <= record.keys()


def test_an_unfitted_calibrator_is_not_saved(tmp_path):
    with pytest.raises(UserError, match="not fitted"):
        save_calibrator(TemperatureScaling(), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["calibrator.json", "calibrator.safetensors"])
def test_a_missing_file_is_named(saved, name):
    _, folder = saved
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name}: cannot be read"):
        load_calibrator(folder)


@pytest.mark.parametrize("name", ["calibrator.json", "calibrator.safetensors"])
@pytest.mark.parametrize("part", [0.0, 0.5, 0.95])
def test_a_truncated_file_is_named(saved, name, part):
    _, folder = saved
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(part * len(content))])
    with pytest.raises(UserError, match=f"{name}: is (truncated|damaged)"):
        load_calibrator(folder)


def test_files_that_do_not_belong_together_are_noticed(saved, tmp_path):
    _, folder = saved
    save_calibrator(TemperatureScaling.from_temperature(9.0), tmp_path / "other")
    (tmp_path / "other/calibrator.safetensors").replace(folder / "calibrator.safetensors")
    with pytest.raises(UserError, match="belongs to another"):
        load_calibrator(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "temprature"}, "Did you mean 'temperature'"),
        ({"name": None}, "no calibrator 'None'"),
        ({"schema": 99, "temperance": "7.0"}, "newer version of temperance .*7.0"),
        ({"schema": "one"}, "describes no calibrator"),
        ({"fit": {"temperature": 1}}, "does not fit the calibrator"),
    ],
)
def test_a_record_that_makes_no_sense_is_refused(saved, change, message):
    _, folder = saved
    path = folder / "calibrator.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        load_calibrator(folder)


def test_a_failed_write_leaves_the_old_file(saved, monkeypatch):
    calibrator, folder = saved

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space"):
            save_calibrator(TemperatureScaling.from_temperature(3.0), folder)
    assert load_calibrator(folder).temperature == calibrator.temperature
    assert len(list(folder.iterdir())) == 2
    assert torch.isfinite(load_calibrator(folder)(torch.ones(1, 2))).all()
