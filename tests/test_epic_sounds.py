import json
import math
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_files import EVENTS_HEADER, TIMES_HEADER, clicks, stamp, write_hdf5, write_media

from mc3 import evaluate
from mc3.config import Config, override
from mc3.data import epic_sounds, manifest
from mc3.data.annotations import Report
from mc3.errors import DataError


@pytest.fixture(scope="module")
def published(shared_data: Path) -> Path:
    return shared_data / "annotations" / "epic_sounds"


@pytest.mark.parametrize(
    ("name", "events", "videos", "classes"),
    [("validation", 8035, 137, 44), ("recognition_test_timestamps", 5131, 44, 0), ("not_categorised", 39187, 696, 0)],
)
def test_a_published_file_is_read_whole(published: Path, name: str, events: int, videos: int, classes: int):
    (path,) = published.glob(f"*_{name}.csv")
    report = Report(Path())
    table = epic_sounds.read_events(path, report)
    assert report.dropped == []
    assert (len(table), table["video_id"].nunique(), table["class_id"].nunique()) == (events, videos, classes)


def test_the_chance_of_the_published_events_is_the_papers(published: Path):
    events = epic_sounds.read_events(published / "EPIC_Sounds_validation.csv", Report(Path()))
    chance = evaluate.random_classification(events["class_id"])
    assert round(100 * chance["top1"], 2) == 7.71  # as printed in Table 4
    assert round(100 * chance["top5"], 2) == 31.09  # the paper's drawn 30.95
    assert chance["mca"] == pytest.approx(1 / 44)


def test_the_published_list_of_detection_test_videos_is_not_taken_for_events(published: Path):
    path = published / "EPIC_Sounds_detection_test_videos.csv"
    assert pd.read_csv(path)["video_id"].nunique() == 23
    with pytest.raises(DataError, match=r"EPIC_Sounds_detection_test_videos\.csv has no column `annotation_id`"):
        epic_sounds.read_events(path, Report(Path()))


def test_no_published_event_ends_after_its_video_by_the_published_durations(shared_data: Path, published: Path):
    events = epic_sounds.read_events(published / "EPIC_Sounds_validation.csv", Report(Path()))
    info = pd.read_csv(shared_data / "annotations" / "epic_kitchens_100" / epic_sounds.VIDEO_INFO)
    duration = events["video_id"].map(info.set_index("video_id")["duration"])
    assert duration.notna().all()
    assert (events["stop"] - duration).max() < epic_sounds.OVERHANG_SEC


@given(st.integers(0, 40 * 3_600_000))
def test_timestamps_are_read_to_the_millisecond_and_other_forms_are_no_number(milliseconds: int):
    assert epic_sounds.seconds(stamp(milliseconds / 1000)) == pytest.approx(milliseconds / 1000, abs=6e-4)
    for text in ("", "12.5", "1:2", "a:b:c", "00:00:00:01", "00:00:x"):
        assert math.isnan(epic_sounds.seconds(text)), text


@given(start=st.floats(0, 5000), length=st.floats(0.2, 60))
def test_samples_are_accepted_at_24_khz_and_known_slips_are_named(start: float, length: float):
    start, stop = round(start, 3), round(start + length, 3)

    expected = {
        24000: None, 240000: "samples ten times too large", 2400: "samples ten times too small",
        48000: "timestamps and samples disagree", 1: "seconds where samples belong",
    }  # fmt: skip
    for rate, reason in expected.items():
        samples = [time if rate == 1 else round(time * rate) for time in (start, stop)]
        both = (pd.DataFrame([values], columns=["start", "stop"]) for values in ((start, stop), samples))
        assert next((fault for fault, rows in epic_sounds.time_faults(*both).items() if rows.all()), None) == reason


@given(start=st.floats(0, 5000), length=st.floats(0.01, 60))
def test_a_window_keeps_the_events_centre_and_its_length_within_the_limits(start: float, length: float):
    low, high = epic_sounds.window(start, start + length, 1.5, 4.0)
    assert (low + high) / 2 == pytest.approx(start + length / 2)
    assert high - low == pytest.approx(np.clip(length, 1.5, 4.0))


def test_rows_at_fault_are_listed_with_their_reason(tmp_path: Path):
    good = "00:00:01.000,00:00:02.000,24000,48000,d"
    rows = {
        f"a,P,v,{good},c,3": None, "a,P,v,00:00:03.000,00:00:04.000,72000,96000,d,c,3": "duplicated annotation_id",
        f"a/../b,P,v,{good},c,3": "unsafe annotation_id 'a/../b'", f"c,P,../v,{good},c,3": "unsafe video_id '../v'",
        "d,P,v,00:00:02.000,00:00:01.000,48000,24000,d,c,3": "ends before it starts",
        "e,P,v,00:00:01.000,00:00:02.000,1.0,2.0,d,c,3": "seconds where samples belong",
        "f,P,v,00:00:01.000,00:00:02.000,,48000,d,c,3": "times or samples are no numbers",
        **{f"g{text},P,v,{good},c,{text}": "class_id is no whole number" for text in ("3.5", "-1", "")},
        f"i,P,v,{good},c,44": "class_id is not in 0..43",
        f"l,P,v,{good},c,5": "class 'c' with class_id 5, against the rest of the file",
        f"m,P,v,{good},b,3": "class 'b' with class_id 3, against the rest of the file",
        "h,P,v,00:00:01.000,00:00:02.000,240000,480000,d,c,3": "samples ten times too large",
    }  # fmt: skip
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
    write_hdf5(path, P01_01=clicks(5.0, [0.2, 2.0, 4.9], 24000))
    windows = [(-0.5, 1.0), (1.3, 2.8), (4.0, 6.0)]
    before, within, after = epic_sounds.clips_of(path, "P01_01", windows, 16000)
    for waveform, (start, end), click in zip((before, within, after), windows, (0.2, 2.0, 4.9), strict=True):
        assert len(waveform) == round((end - start) * 16000)
        assert start + np.flatnonzero(np.abs(waveform) > 0.45)[0] / 16000 == pytest.approx(click, abs=0.001)
    assert (before[:8000] == 0).all()
    assert (after[16100:] == 0).all()


def test_sound_that_is_not_there_is_named_and_events_beyond_it_are_listed(raw: Path, mini_config: Config):
    sound, of_12_sec = raw / mini_config.epic_sounds.audio, np.zeros(24000 * 12, np.float32)
    with pytest.raises(DataError, match=r"EPIC_audio\.hdf5: the sound of P09_09 cannot be read"):
        next(epic_sounds.clips_of(sound, "P09_09", [(0, 1)], 16000))
    sound.write_bytes(b"no HDF5")
    with pytest.raises(DataError, match="is no HDF5 file"):
        epic_sounds.clips(mini_config, Report(Path()))
    sound.unlink()
    with pytest.raises(DataError, match=r"no .*EPIC_audio\.hdf5"):
        epic_sounds.clips(mini_config, Report(Path()))
    write_hdf5(sound, P01_00=np.zeros(24000 * 3, np.float32), P01_01=of_12_sec)
    report = Report(Path())
    assert len(epic_sounds.clips(mini_config, report)) == 5
    (listed,) = report.dropped
    assert (listed["row"], listed["reason"]) == ("annotation_id P01_00_2", "event beyond the end of the sound")
    write_hdf5(sound, P01_01=of_12_sec)
    with pytest.raises(DataError, match=r"has none of the videos of .*EPIC_Sounds_train"):
        epic_sounds.clips(mini_config, Report(Path()))


@pytest.mark.parametrize("line", [1, 2, 500])
def test_bytes_that_are_no_text_are_named_with_their_place(tmp_path: Path, line: int):
    lines = [EVENTS_HEADER, *(f"a{i},P,v,00:00:01.000,00:00:02.000,24000,48000,d,c,3" for i in range(499))]
    at, data = len("\n".join(lines[:line])) - 1, bytearray("\n".join(lines).encode())
    data[at] = 0xE9
    path = tmp_path / "events.csv"
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"events\.csv.*byte {at}\b.*not UTF-8"):
        epic_sounds.read_events(path, Report(Path()))


def write_sound(path: Path, sound: np.ndarray, rate: int, codec: str) -> None:
    """`sound` [channels, S] in [-1, 1] as a file of nothing else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=rate, layout="stereo" if len(sound) == 2 else "mono")
        samples = np.ascontiguousarray((sound.T * 32767).astype(np.int16).reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=stream.layout.name)
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(stream.format, stream.layout, rate, stream.frame_size or None)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            file.mux(stream.encode(part))
        file.mux(stream.encode())


@pytest.mark.parametrize(
    ("suffix", "codec", "rate", "channels"),
    [(".wav", "pcm_s16le", 24000, 1), (".FLAC", "flac", 48000, 2), (".mp3", "libmp3lame", 44100, 2),
     (".mp4", "aac", 16000, 1)],
)  # fmt: skip
def test_a_folder_of_files_gives_the_clips_of_the_hdf5(mini_config, raw, monkeypatch, suffix, codec, rate, channels):
    times = [0.5, 1.7, 3.0, 9.0, 30.2]
    write_hdf5(raw / mini_config.epic_sounds.audio, **dict.fromkeys(("P01_00", "P01_01"), clicks(32, times, 24000)))
    for video in ("P01_00", "P01_01"):
        sound = np.stack([clicks(32, times, rate), np.zeros(32 * rate)])[:channels]
        write_sound(raw / "sound" / "P01" / f"{video}{suffix}", channels * sound * 0.5, rate, codec)
    (raw / "sound" / "README.txt").write_text("no sound")
    found = epic_sounds.clips(override(mini_config, {"epic_sounds.audio": "sound"}), Report(raw))
    expected = epic_sounds.clips(mini_config, Report(raw))
    assert {row.pop("path") for row in expected} == {"EPIC_audio.hdf5"}
    paths = {row.pop("path") for row in found}
    assert paths == {f"sound/P01/{video}{suffix}" for video in ("P01_00", "P01_01")}
    assert found == expected
    opened = []
    monkeypatch.setattr(av, "open", lambda *a, of=av.open, **k: opened.append(a) or of(*a, **k))
    windows = [(-0.3, 1.0), (1.5, 3.2), (29.5, 32.5)]
    given = epic_sounds.clips_of(raw / "sound" / "P01" / f"P01_00{suffix}", "P01_00", windows, 16000)
    for waveform, (start, end) in zip(given, windows, strict=True):
        assert len(waveform) == round((end - start) * 16000)
        loud = np.flatnonzero(np.abs(waveform) > 0.15) / 16000 + start
        begins = loud[np.diff(loud, prepend=-np.inf) > 0.1]
        assert begins == pytest.approx([t for t in times if start <= t < end], abs=0.003)
    assert len(opened) == 1


def test_files_that_cannot_be_an_events_sound_are_named(mini_config: Config, raw: Path):
    folder, config = raw / "sound", override(mini_config, {"epic_sounds.audio": "sound"})
    folder.mkdir()
    with pytest.raises(DataError, match=r"no media files in .*sound"):
        epic_sounds.clips(config, Report(raw))
    write_media(folder / "P01_00.mp4", 2.0)
    (folder / "P01_01.wav").write_bytes(b"RIFF no sound")
    report = Report(raw)
    assert epic_sounds.clips(config, report) == []
    reasons = " ".join(report.by_reason())
    assert "sound of P01_00 is not in P01_00.mp4, which has no audio stream" in reasons
    assert "sound of P01_01 cannot be read" in reasons
    write_media(folder / "P01_00.mkv", 2.0)
    with pytest.raises(DataError, match=r"P01_00\.mkv and .*P01_00\.mp4 are both the sound of P01_00"):
        epic_sounds.clips(config, Report(raw))


def test_the_test_split_is_cut_without_classes_and_the_others_need_theirs(mini_config: Config, raw: Path):
    (raw / "test.csv").write_text(f"{TIMES_HEADER}\nP01_01_t,P01,P01_01,00:00:01.000,00:00:02.000,24000,48000\n")
    config = override(mini_config, {"epic_sounds.annotations.test": "test.csv"})
    table = manifest.read(manifest.write(config))
    table = table[table["dataset"] == "epic_sounds"].set_index("split")
    assert table.loc["test", "clip_id"] == "P01_01_t"
    assert pd.isna(table.loc["test", "class_id"])
    assert table.loc[["train", "validation"], "class_id"].notna().all()
    with pytest.raises(DataError, match=r"test\.csv has no column `class_id`, which the split train needs"):
        manifest.write(override(config, {"epic_sounds.annotations.train": "test.csv"}))


def test_the_check_counts_events_and_names_each_sound_that_cannot_be_used(mini_config: Config, raw: Path, capsys):
    more = [f"P02_0{v}_0,P02,P02_0{v},00:00:01.000,00:00:02.000,24000,48000,,t0,0" for v in range(4)]
    with (raw / "EPIC_Sounds_validation.csv").open("a") as file:
        file.write("\n".join([*more, "x,P02,../x,00:00:01.000,00:00:02.000,24000,48000,,t0,0"]) + "\n")
    audio = raw / mini_config.epic_sounds.audio
    audio.unlink()
    with pytest.raises(DataError, match=r"no sound at .*EPIC_audio\.hdf5"):
        epic_sounds.check(mini_config)
    assert "validation: 7 events in 5 videos, in " in capsys.readouterr().out
    needed = [f"P01_0{v}" for v in range(2)] + [f"P02_0{v}" for v in range(4)]
    assert (mini_config.paths.work / "epic_video_ids.txt").read_text().split() == needed
    sound = clicks(12, [2.0], 24000), clicks(8.5, [2.0], 24000), np.zeros((2, 5 * 24000), np.float32)
    sound += np.zeros(5 * 44100, np.float32), 32767 * clicks(5, [2.0], 24000)
    write_hdf5(audio, **dict(zip(needed, sound, strict=False)))  # none of the last
    info = pd.DataFrame({"video_id": needed, "duration": [12.0, 9.5, 5.0, 5.0, 5.0, 5.0]})
    info.to_csv(raw / epic_sounds.VIDEO_INFO, index=False)
    facts = epic_sounds.check(mini_config)
    train, validation = facts["splits"]["train"], facts["splits"]["validation"]
    assert (train["events"], train["videos"], train["videos_with_sound"], train["refused"]) == (3, 1, 1, {})
    assert train["hours_of_events"] == pytest.approx((0.3 + 2.5 + 8) / 3600, abs=5e-4)
    assert (validation["events"], validation["videos"], validation["videos_with_sound"]) == (3, 5, 4)
    assert validation["refused"] == dict.fromkeys([
        "event beyond the end of the sound", "no sound in EPIC_audio.hdf5", "unsafe video_id '../x'",
        "sound of P02_00 is no 1-D array of floats",
        "sound of P02_01 lasts 9.2 s, its video 5.0 s: about 44100 samples a second, not 24000",
    ], 1)  # fmt: skip
    assert facts["faults"]["P02_02"].startswith("has samples outside [-1, 1]")
    assert json.loads((mini_config.paths.work / "epic_sounds_check.json").read_text()) == facts
    shown = capsys.readouterr().out
    assert "validation: 3 events of 2 classes can be cut" in shown
    assert "1 refused: no sound in EPIC_audio.hdf5" in shown
    write_hdf5(audio, P09_09=np.zeros(24000, np.float32))
    with pytest.raises(DataError, match=r"usable sound of none of the 6 videos in .*epic_video_ids\.txt"):
        epic_sounds.check(mini_config)
