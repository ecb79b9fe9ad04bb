"""Exported clips: their pictures, sound and times against the sources', by a decoder that is not the project's."""

import io
import shutil
from pathlib import Path

import av
import h5py
import numpy as np
import pandas as pd
import pytest
from raw_files import clicks, contents, number_of, write_media
from scipy.io import wavfile
from test_shards import build

from mc3 import cli
from mc3.config import Config, override
from mc3.data import cutting, media, prepare, shards
from mc3.data.encode import encode
from mc3.errors import ConfigError, DataError
from mc3.extra import clips


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Shards of small videos of 12 s, 8 numbered pictures and one click a second."""
    built = build(tmp_path_factory.mktemp("work"))
    prepare.write(built)
    return built


@pytest.fixture(scope="module")
def exported(cut: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("out") / "clips"
    return folder, clips.export(cut, folder, "train")


def decoded(file: Path | io.BytesIO) -> tuple[list[tuple[float, np.ndarray]], np.ndarray, float]:
    """Times and pictures, sound, and when that begins, of a whole file."""
    source = str(file) if isinstance(file, Path) else file
    with av.open(source) as container:
        pictures = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
        if not container.streams.audio:
            return pictures, np.zeros(0, np.float32), 0.0
        container.seek(0)
        frames = list(container.decode(audio=0))
    return pictures, np.concatenate([frame.to_ndarray()[0] for frame in frames]), frames[0].time


def psnr(one: np.ndarray, two: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((one.astype(float) - two) ** 2))))


def test_the_table_joins_to_the_index_and_names_every_file(cut: Config, exported):
    folder, table = exported
    index = shards.rows_of(shards.read_index(cut.paths.shards), "ego4d", "train")
    written = pd.read_csv(folder / "clips.csv", keep_default_na=False)
    assert list(written.columns) == clips.COLUMNS
    assert written.equals(table.astype({column: written[column].dtype for column in written}))
    joined = written.merge(index, on="clip_id", suffixes=("", "_index"), validate="one_to_one")
    assert len(joined) == len(index) > 5
    for column in ("split", "video_uid", "start_sec", "end_sec", "text"):
        assert (joined[column] == joined[f"{column}_index"]).all()
    names = {*table["mp4"], *table["wav"], "clips.csv", ".mc3-written"}
    assert {path.name for path in folder.iterdir()} == names
    assert table["mp4"].tolist() == [f"{clip}.mp4" for clip in table["clip_id"]]


def test_an_mp4_lasts_as_its_clip_and_has_the_sources_pictures_in_their_size(cut: Config, exported):
    folder, table = exported
    for row in table.itertuples():
        with av.open(str(folder / row.mp4)) as file:
            video, audio = file.streams.video[0], file.streams.audio[0]
            assert (video.codec_context.name, audio.codec_context.name, audio.rate) == ("h264", "aac", 16000)
            assert (video.width, video.height, video.base_rate) == (64, 64, 8)
            assert file.duration / av.time_base == pytest.approx(row.end_sec - row.start_sec, abs=0.01)
            assert float(audio.duration * audio.time_base) == pytest.approx(1.5, abs=0.001)
        source, _, _ = decoded(cut.paths.raw / "v2" / "full_scale" / f"{row.video_uid}.mp4")
        pictures, _, _ = decoded(folder / row.mp4)
        assert len(pictures) in (12, 13)
        for time, picture in pictures:
            shown = next(own for at, own in reversed(source) if at <= max(0, row.start_sec + time) + 1e-3)
            assert psnr(picture, shown) > 30
            assert number_of(picture) == number_of(shown)


def test_a_wav_is_the_sound_of_the_window_and_the_mp4_has_the_same(cut: Config, exported):
    folder, table = exported
    for row in table.itertuples():
        path = cut.paths.raw / "v2" / "full_scale" / f"{row.video_uid}.mp4"
        expected = next(media.waveforms_of(path, [(row.start_sec, row.end_sec)], 16000))
        rate, samples = wavfile.read(folder / row.wav)
        assert (rate, samples.dtype, samples.shape) == (16000, np.int16, (24000,))
        assert np.abs(samples / 32768 - expected).max() <= 0.5 / 32768 + 1e-7
        _, heard, begins = decoded(folder / row.mp4)
        assert begins == pytest.approx(0.0, abs=0.001)
        assert np.corrcoef(heard[:24000], expected)[0, 1] > 0.8


@pytest.mark.parametrize("fps", [8, 25, 30])
@pytest.mark.parametrize("start", [2.5, 2.5416, 2.2, 2.9, -0.1])
def test_a_flash_and_a_click_are_in_step_within_40_ms_at_any_start(tmp_path: Path, fps: int, start: float):
    flash = 1.0 if start < 0 else 3.0
    path = write_media(
        tmp_path / "flash.mp4", 6.0, fps, clicks(6.0, [flash], 44100), 44100,
        picture=lambda number: np.full((64, 96, 3), 255 * (number == flash * fps), np.uint8),
    )  # fmt: skip
    pictures, sound, begins = decoded(io.BytesIO(cutting.mp4_of(path, start, start + 1.5)))
    assert pictures[0][1].shape == (64, 96, 3)
    (seen,) = [time for time, picture in pictures if picture.mean() > 127]
    heard = np.flatnonzero(np.abs(sound) > np.abs(sound).max() / 3)[0] / 44100 + begins
    assert seen == pytest.approx(flash - start, abs=0.005)
    assert abs(seen - heard) < 0.04


@pytest.mark.parametrize("start", [11.45, 11.95, 13.0])
def test_a_window_beyond_the_end_keeps_its_length_and_the_last_picture(cut: Config, start: float):
    path = cut.paths.raw / "v2" / "full_scale" / "t0.mp4"
    data = cutting.mp4_of(path, start, start + 1.5)
    with av.open(io.BytesIO(data)) as file:
        assert file.duration / av.time_base == pytest.approx(1.5, abs=0.01)
    pictures, _, _ = decoded(io.BytesIO(data))
    shown = [min(95, int((start + time) * 8 + 0.01)) for time, _ in pictures]
    assert [number_of(picture) for _, picture in pictures] == shown


def test_sound_is_resampled_on_request_and_a_rate_that_aac_lacks_is_coded_at_another(cut: Config, tmp_path: Path):
    table = clips.export(cut, tmp_path / "out", "test", rate=10000)
    with av.open(str(tmp_path / "out" / table["mp4"][0])) as file:
        assert file.streams.audio[0].rate == cutting.FALLBACK_RATE
    assert wavfile.read(tmp_path / "out" / table["wav"][0])[0] == 10000
    with pytest.raises(ConfigError, match="--rate 0: give samples a second"):
        clips.export(cut, tmp_path / "other", rate=0)


def test_several_processes_write_the_bytes_of_one(cut: Config, exported, tmp_path: Path):
    clips.export(override(cut, {"clips.workers": 2}), tmp_path / "two", "train")
    assert contents(tmp_path / "two") == contents(exported[0])


def test_epic_sounds_events_have_sound_alone_at_its_own_rate(cut: Config, tmp_path: Path, capsys):
    table = clips.export(cut, tmp_path / "epic", "validation", "epic_sounds")
    assert (table["mp4"] == "").all()
    with h5py.File(cut.paths.raw / cut.epic_sounds.audio) as file:
        for row in table.itertuples():
            rate, samples = wavfile.read(tmp_path / "epic" / row.wav)
            first, count = round(row.start_sec * 24000), round((row.end_sec - row.start_sec) * 24000)
            whole = np.pad(file[row.video_uid][:], (24000, 48000))
            own = whole[24000 + first : 24000 + first + count]
            assert rate == 24000
            assert np.abs(samples / 32768 - own).max() < 1e-4
    last = f"{len(table)} clips of epic_sounds validation in {tmp_path / 'epic'}: {len(table)} without pictures, 0 "
    assert capsys.readouterr().out.splitlines()[-1].startswith(last)


@pytest.fixture
def own(cut: Config, tmp_path: Path) -> Config:
    """A copy that a test may damage."""
    shutil.copytree(cut.paths.raw, tmp_path / "raw")
    shutil.copytree(cut.paths.shards, tmp_path / "shards")
    return override(cut, {"paths.raw": str(tmp_path / "raw"), "paths.shards": str(tmp_path / "shards")})


def test_clips_without_sound_or_pictures_have_an_empty_cell_and_are_counted(own: Config, tmp_path: Path, capsys):
    videos = own.paths.raw / "v2" / "full_scale"
    write_media(videos / "t0.mp4", 12.0)
    write_media(videos / "t1.wav", 12.0, 0, clicks(12.0, [1.0], 16000)).replace(videos / "t1.mp4")
    table = clips.export(own, tmp_path / "out", "train").set_index("video_uid")
    assert set(table.loc["t0", "wav"]) == set(table.loc["t1", "mp4"]) == {""}
    assert (table.loc["t2", ["mp4", "wav"]] != "").all(axis=None)
    silent, blind = len(table.loc["t0"]), len(table.loc["t1"])
    assert f": {blind} without pictures, {silent} without sound" in capsys.readouterr().out
    written = pd.read_csv(tmp_path / "out" / "clips.csv")
    assert written["wav"].isna().sum() == silent
    with pytest.raises(DataError, match=r"t1\.mp4 has no pictures; give a video"):
        cutting.mp4_of(videos / "t1.mp4", 0, 1)


def test_a_missing_or_damaged_video_is_named_and_nothing_is_left(own: Config, tmp_path: Path):
    path = own.paths.raw / "v2" / "full_scale" / "t1.mp4"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"t1\.mp4 cannot be decoded"):
        clips.export(own, tmp_path / "out", "train")
    path.unlink()
    with pytest.raises(DataError, match=r"1 raw files are missing, the first .*t1\.mp4; download"):
        clips.export(own, tmp_path / "out", "train")
    assert not any(tmp_path.glob("*out*"))
    with pytest.raises(DataError, match=r"no media file .*t1\.mp4"):
        cutting.mp4_of(path, 0, 1)
    with pytest.raises(ConfigError, match="has no length"):
        cutting.mp4_of(path, 1, 1)


def test_another_folder_is_refused_and_an_export_is_replaced(cut: Config, tmp_path: Path):
    folder = tmp_path / "out"
    clips.export(cut, folder, "test")
    clips.export(cut, folder, "validation")
    assert set(pd.read_csv(folder / "clips.csv")["split"]) == {"validation"}
    (folder / "notes.txt").write_text("mine")
    before = contents(folder)
    with pytest.raises(DataError, match=r"notes\.txt is not as `mc3 clips` wrote it.*; move it away or set --export"):
        clips.export(cut, folder, "test")
    assert contents(folder) == before


def test_an_id_that_is_no_file_name_and_a_split_without_clips_are_refused(own: Config, tmp_path: Path):
    file = own.paths.shards / "index.parquet"
    index = pd.read_parquet(file)
    with pytest.raises(DataError, match="has no clips of epic_sounds test; it has ego4d test"):
        clips.export(own, tmp_path / "out", "test", "epic_sounds")
    index.loc[index["split"] == "test", "clip_id"] = "../outside"
    index.to_parquet(file)
    with pytest.raises(DataError, match=r"clip id '\.\./outside' .* is no file name"):
        clips.export(own, tmp_path / "out", "test")
    file.unlink()
    with pytest.raises(DataError, match="no shards in"):
        clips.export(own, tmp_path / "out")


def test_the_commands_example_parses_and_a_missing_index_is_one_line(repository: Path, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["clips", "--help"])
    example = capsys.readouterr().out.split("example: mc3 ")[1].split()
    assert cli.parser().parse_args(example).split == "test"
    assert cli.main(["clips", "--export", "out"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_an_mp4_needs_a_picture_and_odd_sides_lose_a_row_and_a_column(tmp_path: Path):
    with pytest.raises(ValueError, match="no pictures"):
        encode(tmp_path / "none.mp4", [], 8, None, 0)
    path = write_media(tmp_path / "odd.mkv", 2.0, picture=lambda i: np.full((65, 99, 3), 90, np.uint8), codec="mpeg4")
    pictures, sound, _ = decoded(io.BytesIO(cutting.mp4_of(path, 0.0, 1.5)))
    assert pictures[0][1].shape == (64, 98, 3)
    assert len(sound) == 0


def test_the_real_sample_video_keeps_its_size_rate_and_pictures(shared_data: Path):
    path = shared_data / "video" / "egoblur_glasses_table.mp4"
    source, _, _ = decoded(path)
    data = cutting.mp4_of(path, 0.23, 1.13)
    with av.open(io.BytesIO(data)) as file, av.open(str(path)) as original:
        one, two = file.streams.video[0], original.streams.video[0]
        assert (one.width, one.height) == (two.width // 2 * 2, two.height // 2 * 2)
        assert one.base_rate == pytest.approx(float(two.average_rate), abs=0.1)
        assert file.streams.audio[0].rate == original.streams.audio[0].rate
        assert file.duration / av.time_base == pytest.approx(0.9, abs=0.01)
    pictures, _, _ = decoded(io.BytesIO(data))
    assert len(pictures) in (9, 10)
    for time, picture in pictures:
        at = 0.23 + time + 0.01  # a little behind the border
        shown = next(own for when, own in reversed(source) if when - source[0][0] <= at)
        assert psnr(picture, shown) > 32
