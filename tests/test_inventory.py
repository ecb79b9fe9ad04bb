"""Which Ego4D videos are needed, before the download, and what is wrong with their files, before they are cut."""

import json
import re
import types
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import yaml
from raw_files import clicks, write_media, write_raw

from mc3 import cli, config, world
from mc3.data import manifest, media, prepare
from mc3.errors import DataError
from mc3.extra import inventory

SECONDS = 12.0


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False).set_index("video_uid")


def write(path: Path, seconds: float, sound: float | None = None) -> None:
    """A video with as long a sound, or of `sound` seconds."""
    write_media(path, seconds, sound=clicks(seconds if sound is None else sound, [], 16000))


def front(path: Path) -> Path:
    """The same packets with the header before them, as downloads for streaming have it."""
    moved = path.with_name("front.mp4")
    with av.open(str(path)) as source, av.open(str(moved), "w", options={"movflags": "+faststart"}) as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    return moved.replace(path)


def cut_short(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def decoded_seconds(path: Path) -> float:
    """The reference: decode all pictures that are there and look at the last one's time."""
    last = 0.0
    with av.open(str(path)) as file:
        try:
            for frame in file.decode(video=0):
                last = frame.time
        except av.error.FFmpegError:
            pass
    return last


def test_the_plan_lists_exactly_the_videos_of_the_manifest_before_any_is_there(mini_config, raw, capsys):
    manifest.write(mini_config)
    clips = manifest.read(mini_config.paths.work / "manifest.parquet")
    capsys.readouterr()
    path = inventory.plan(mini_config)
    wanted = sorted(set(clips.loc[clips["dataset"] == "ego4d", "video_uid"]))
    assert path.read_text() == "".join(f"{uid}\n" for uid in wanted)
    assert "s0" not in wanted  # the metadata say that it has no audio
    printed = capsys.readouterr().out
    assert "to download: 5 videos, 0.0 h, all with audio; not needed: 1 of the 6 in ego4d.json, 1 of which" in printed
    assert f"ego4d --output_directory {raw} --datasets full_scale --version v2 --video_uid_file {path}" in printed


def test_the_plan_projects_bytes_by_what_is_there_else_by_the_whole_release(mini_config, capsys):
    raw = write_raw(mini_config, media=False, train=3, seconds=3600.0)
    inventory.plan(mini_config)
    printed = capsys.readouterr().out
    assert "about 9.7 GB at 1.93 GB an hour, as the whole release has; 0.0 GB of it are there" in printed
    folder = raw / mini_config.ego4d.videos
    folder.mkdir(parents=True)
    for name, size in (("t0", 300_000_000), ("e0", 100_000_000), ("stranger", 900_000_000)):
        with (folder / f"{name}.mp4").open("wb") as file:
            file.truncate(size)
    inventory.plan(mini_config)
    assert "about 1.0 GB at 0.20 GB an hour, as the 2 that are there; 0.4 GB of it are there" in capsys.readouterr().out


def test_the_plan_says_when_the_disk_is_too_small_and_when_no_size_is_known(mini_config, capsys, monkeypatch):
    write_raw(mini_config, media=False, seconds=3600.0)
    monkeypatch.setattr(inventory.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=10**9))
    inventory.plan(mini_config)
    assert "the disk has 1 GB free, which is NOT enough" in capsys.readouterr().out
    inventory.plan(config.override(mini_config, {"ego4d.videos": "v2/video_540ss"}))
    printed = capsys.readouterr().out
    assert "how many GB that is shows with the first file in " in printed
    assert "--datasets video_540ss --version v2" in printed


def test_a_smaller_sample_needs_fewer_videos_and_the_labelled_ones_always(mini_config):
    small = config.override(mini_config, {"ego4d.train_clips": 2})
    write_raw(small, media=False, train=40)
    wanted = inventory.needed(small)
    assert {"v0", "e0"} < set(wanted.index)
    assert len(wanted) <= 4
    assert wanted.loc["v0", ["splits", "clips", "narrated_sec"]].tolist() == ["validation", 2, 4.0]


def test_videos_that_the_release_does_not_list_are_named_and_left_out(mini_config, raw, capsys):
    folder = raw / mini_config.ego4d.videos
    folder.mkdir(parents=True)
    (folder / "manifest.csv").write_text("video_uid,canonical_s3_location\nt0,x\nt1,x\nv0,x\ne0,x\n")
    assert inventory.plan(mini_config).read_text() == "e0\nt0\nt1\nv0\n"
    assert "1 of them are not in this release's manifest.csv: t2" in capsys.readouterr().out


def test_metadata_cut_down_to_some_videos_need_only_those(mini_config, raw):
    path = raw / mini_config.ego4d.metadata
    videos = [v for v in json.loads(path.read_text())["videos"] if v["video_uid"] in ("t1", "v0", "e0")]
    path.write_text(json.dumps({"videos": videos}))
    assert inventory.needed(mini_config).index.tolist() == ["e0", "t1", "v0"]


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_the_header_shows_where_a_file_is_truncated_as_decoding_does(tmp_path, share):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)  # evenly many bytes a second, all the file through
    path = write_media(tmp_path / "a.mp4", 20.0, sound=clicks(20.0, [], 16000), gop=8, picture=lambda i: noise[i % 8])
    front(path)
    whole = inventory.examine(path)
    assert (whole.cut, whole.fault) == (False, "")
    assert whole.pictures_sec == pytest.approx(20.0)
    cut_short(path, share)
    found = inventory.examine(path)
    assert found.cut
    assert found.pictures_sec == pytest.approx(decoded_seconds(path), abs=0.5)
    assert 0 < found.pictures_sec < 19


def test_each_fault_is_named_and_unusable_are_exactly_the_videos_that_cutting_refuses(mini_config, capsys):
    folder = write_raw(mini_config, train=10, seconds=SECONDS) / mini_config.ego4d.videos
    (folder / "t0.mp4").unlink()
    cut_short(folder / "t1.mp4", 0.5)  # its header was at the end
    (folder / "t2.mp4").write_bytes(b"")
    write_media(folder / "t3.mp4", SECONDS)
    cut_short(front(folder / "t4.mp4"), 0.95)
    write(folder / "t5.mp4", 5.0)
    write(folder / "t6.mp4", SECONDS, sound=2.0)
    write(folder / "t7.mp4", 10.0)
    write(folder / "t9.mp4", 8.5)
    with pytest.raises(DataError, match=r"5 of 12 videos cannot be used .*inventory.csv.*mc3 data ego4d plan"):
        inventory.write(mini_config)
    table = read(mini_config.paths.work / "inventory.csv")
    assert table.loc["t0", ["bytes", "duration_sec", "has_audio"]].tolist() == ["", "", ""]
    for uid, problem in {
        "t0": "missing", "t1": "unreadable: .*", "t2": "unreadable: .*", "t3": "no audio", "t4": "truncated: .*",
        "t5": r"truncated: 5\.0 of 12\.0 s; too short: pictures to 5\.0 s, a narration at 7\.7 s",
        "t6": r"sound ends early: at 2\..*", "t7": r"truncated: 10\.0 of 12\.0 s", "t8": "", "v0": "", "e0": "",
        "t9": r"truncated: 8\.5 of 12\.0 s",
    }.items():  # fmt: skip
        assert re.fullmatch(problem, table.loc[uid, "problem"])
    printed = capsys.readouterr().out
    for text in ("11 of 12 videos are there", "\n4 truncated\n    v2/full_scale/t4.mp4: ", "\n2 unreadable\n",
                 "\n1 missing\n    v2/full_scale/t0.mp4\n"):  # fmt: skip
        assert text in printed
    clips = manifest.read(manifest.write(mini_config))
    failed = set()
    for job in prepare.plan(clips[clips["dataset"] == "ego4d"], mini_config, mini_config.paths.work):
        prepare.write_shard(job)
        failed |= {f["video_uid"] for f in json.loads(job.done_marker.read_text())["failures"]}
    unusable = {uid for uid, text in table["problem"].items() if any(kind in text for kind in inventory.UNUSABLE)}
    assert unusable == failed == {"t0", "t1", "t2", "t3", "t5"}


def test_nothing_there_is_one_sentence_and_exit_code_1(mini_settings, mini_config, raw, tmp_path, capsys):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(mini_settings))
    assert cli.main(["data", "ego4d", "check", "--config", str(tmp_path / "params.yaml")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("mc3: none of the 5 videos that are needed is in ")
    assert error.count("\n") == 1
    assert not (mini_config.paths.work / "inventory.csv").exists()
    assert cli.main(["data", "ego4d", "plan", "--config", str(tmp_path / "params.yaml")]) == 0
    assert (mini_config.paths.work / "video_uids.txt").exists()


def test_good_files_have_no_problem_and_further_checks_the_same_bytes_from_new_headers_only(mini_config, monkeypatch):
    raw, cache = write_raw(mini_config, seconds=SECONDS), mini_config.paths.work / "inventory.cache.jsonl"
    first = inventory.write(config.override(mini_config, {"clips.workers": 3})).read_bytes()
    table = read(mini_config.paths.work / "inventory.csv")
    assert table.index.tolist() == ["e0", "t0", "t1", "t2", "v0"]
    assert (table["problem"] == "").all()
    assert table["has_audio"].all()
    assert table["duration_sec"].tolist() == pytest.approx([SECONDS] * 5, abs=0.01)
    assert table["bytes"].tolist() == [(raw / path).stat().st_size for path in table["path"]]
    cache.unlink()
    assert inventory.write(config.override(mini_config, {"clips.workers": 1})).read_bytes() == first
    cache.write_bytes(cache.read_bytes()[:-20])  # as a run that was killed leaves it
    examined, examine = [], inventory.examine
    monkeypatch.setattr(inventory, "examine", lambda path: examined.append(path) or examine(path))
    assert inventory.write(mini_config).read_bytes() == first
    assert len(examined) == 1
    changed = raw / mini_config.ego4d.videos / "t2.mp4"
    write(changed, 14.0)
    inventory.write(mini_config)
    assert examined[1:] == [changed]


def test_files_without_pictures_and_other_containers_are_recognised(tmp_path, shared_data):
    sound_only = inventory.examine(write_media(tmp_path / "a.wav", 3.0, fps=0, sound=clicks(3.0, [1.0], 16000)))
    assert (sound_only.pictures_sec, sound_only.sound_sec) == (0.0, pytest.approx(3.0, abs=0.01))
    for name in ("egoblur_glasses_table.mp4", "mmaction2_test.avi", "mmaction2_test_noaudio.mp4"):
        path = shared_data / "video" / name
        header = inventory.examine(path)
        assert (header.cut, header.fault) == (False, ""), name
        assert header.pictures_sec == pytest.approx(decoded_seconds(path), abs=0.2), name
        assert (header.sound_sec > 0) == (media.probe(path).audio_rate > 0), name


def test_the_generated_world_passes_its_own_check(mini_config):
    settings = config.override(mini_config, {
        "world.videos": {"train": 3, "validation": 1, "test": 2}, "world.silent_videos": 1, "world.seconds": 12.0,
        "world.epic_events": {"train": 50, "validation": 50}, "world.workers": 1,
    })  # fmt: skip
    world.write(settings)
    table = read(inventory.write(settings))
    assert len(table) == 5
    assert (table["problem"] == "").all()
    (settings.paths.raw / table["path"].iloc[0]).unlink()
    assert read(inventory.write(settings))["problem"].tolist() == ["missing", "", "", "", ""]  # one does not stop it
