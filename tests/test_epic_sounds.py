import math
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_files import EVENTS_HEADER, clicks, stamp, write_raw

from mc3.config import Config
from mc3.data import DataError, epic_sounds
from mc3.data.annotations import Report


def test_the_published_validation_file_is_read_whole(shared_data: Path):
    path = shared_data / "annotations" / "epic_sounds" / "EPIC_Sounds_validation.csv"
    report = Report(Path())
    events = epic_sounds.read_events(path, report)
    assert report.dropped == []
    assert (len(events), events["video_id"].nunique(), events["class_id"].nunique()) == (8035, 137, 44)
    assert (events["class_id"].value_counts(normalize=True) ** 2).sum() == pytest.approx(0.0771, abs=5e-5)


def test_the_published_test_timestamps_have_no_classes(shared_data: Path):
    path = shared_data / "annotations" / "epic_sounds" / "EPIC_Sounds_recognition_test_timestamps.csv"
    events = epic_sounds.read_events(path, Report(Path()))
    assert len(events) == 5131
    assert events["class_id"].isna().all()


@given(st.integers(0, 40 * 3_600_000))
def test_timestamps_are_read_to_the_millisecond(milliseconds: int):
    assert epic_sounds.seconds(stamp(milliseconds / 1000)) == pytest.approx(milliseconds / 1000, abs=6e-4)


@pytest.mark.parametrize("text", ["", "12.5", "1:2", "a:b:c", "00:00:00:01", "00:00:x"])
def test_other_forms_of_a_timestamp_are_no_number(text: str):
    assert math.isnan(epic_sounds.seconds(text))


@given(start=st.floats(0, 5000), length=st.floats(0.2, 60))
def test_samples_are_accepted_at_24_khz_and_known_slips_are_named(start: float, length: float):
    start, stop = round(start, 3), round(start + length, 3)

    def judge(factor: float) -> str | None:
        return epic_sounds.problem(start, stop, round(start * factor), round(stop * factor))

    assert judge(24000) is None
    assert judge(240000) == "samples ten times too large"
    assert judge(2400) == "samples ten times too small"
    assert judge(48000) == "timestamps and samples disagree"
    assert epic_sounds.problem(start, stop, start, stop) == "seconds where samples belong"


@given(start=st.floats(0, 5000), length=st.floats(0.01, 60))
def test_a_window_keeps_the_events_centre_and_its_length_within_the_limits(start: float, length: float):
    low, high = epic_sounds.window(start, start + length, 1.5, 4.0)
    assert (low + high) / 2 == pytest.approx(start + length / 2)
    assert high - low == pytest.approx(np.clip(length, 1.5, 4.0))


def test_rows_at_fault_are_listed_with_their_reason(tmp_path: Path):
    rows = {
        "a,P,v,00:00:01.000,00:00:02.000,24000,48000,d,c,3": None,
        "a,P,v,00:00:03.000,00:00:04.000,72000,96000,d,c,3": "duplicated annotation_id",
        "a/../b,P,v,00:00:01.000,00:00:02.000,24000,48000,d,c,3": "unsafe annotation_id 'a/../b'",
        "c,P,../v,00:00:01.000,00:00:02.000,24000,48000,d,c,3": "unsafe video_id '../v'",
        "d,P,v,00:00:02.000,00:00:01.000,48000,24000,d,c,3": "ends before it starts",
        "e,P,v,00:00:01.000,00:00:02.000,1.0,2.0,d,c,3": "seconds where samples belong",
        "f,P,v,00:00:01.000,00:00:02.000,,48000,d,c,3": "times or samples are no numbers",
        "g,P,v,00:00:01.000,00:00:02.000,24000,48000,d,c,3.5": "class_id is no whole number",
        "h,P,v,00:00:01.000,00:00:02.000,240000,480000,d,c,3": "samples ten times too large",
    }
    path = tmp_path / "events.csv"
    path.write_text("\n".join([EVENTS_HEADER, *rows]))
    report = Report(Path())
    events = epic_sounds.read_events(path, report)
    assert events["annotation_id"].tolist() == ["a"]
    listed = {d["row"]: d["reason"] for d in report.dropped}
    assert listed == {f"line {i}": reason for i, reason in enumerate(rows.values(), start=2) if reason}
    path.write_text("\n".join([EVENTS_HEADER, list(rows)[-1]]))
    with pytest.raises(DataError, match=r"events\.csv: every row is at fault.*ten times too large"):
        epic_sounds.read_events(path, Report(Path()))


def test_sound_is_cut_in_time_and_silent_beyond_the_ends(tmp_path: Path):
    path = tmp_path / "sound.hdf5"
    with h5py.File(path, "w") as file:
        file["P01_01"] = clicks(5.0, [0.2, 2.0, 4.9], 24000)
    windows = [(-0.5, 1.0), (1.3, 2.8), (4.0, 6.0)]
    before, within, after = epic_sounds.clips_of(path, "P01_01", windows, 16000)
    for waveform, (start, end), click in zip((before, within, after), windows, (0.2, 2.0, 4.9), strict=True):
        assert len(waveform) == round((end - start) * 16000)
        assert start + np.flatnonzero(np.abs(waveform) > 0.45)[0] / 16000 == pytest.approx(click, abs=0.001)
    assert (before[:8000] == 0).all()
    assert (after[16100:] == 0).all()


def test_sound_that_is_not_there_is_named(tmp_path: Path, mini_config: Config):
    with h5py.File(tmp_path / "sound.hdf5", "w") as file:
        file["P01_01"] = np.zeros(24000, np.float32)
    with pytest.raises(DataError, match=r"sound\.hdf5: the sound of P09_09 cannot be read"):
        next(epic_sounds.clips_of(tmp_path / "sound.hdf5", "P09_09", [(0, 1)], 16000))
    raw = write_raw(mini_config, media=False)
    (raw / mini_config.epic_sounds.audio).write_bytes(b"no HDF5")
    with pytest.raises(DataError, match="is no HDF5 file"):
        epic_sounds.clips(mini_config, Report(Path()))
    (raw / mini_config.epic_sounds.audio).unlink()
    with pytest.raises(DataError, match=r"no .*EPIC_audio\.hdf5"):
        epic_sounds.clips(mini_config, Report(Path()))


def test_events_beyond_the_sound_or_without_it_are_listed(mini_config: Config):
    raw = write_raw(mini_config, media=False)
    with h5py.File(raw / mini_config.epic_sounds.audio, "w") as file:
        file["P01_00"] = np.zeros(24000 * 3, np.float32)
        file["P01_01"] = np.zeros(24000 * 12, np.float32)
    report = Report(Path())
    clips = epic_sounds.clips(mini_config, report)
    assert len(clips) == 5
    assert [(d["row"], d["reason"]) for d in report.dropped] == [
        ("annotation_id P01_00_2", "event beyond the end of the sound")
    ]
    with h5py.File(raw / mini_config.epic_sounds.audio, "w") as file:
        file["P01_01"] = np.zeros(24000 * 12, np.float32)
    with pytest.raises(DataError, match=r"has none of the videos of .*EPIC_Sounds_train"):
        epic_sounds.clips(mini_config, Report(Path()))
