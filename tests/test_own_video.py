"""`mc3 discover` on files of a user: what is written, what is refused, and a page that plays."""

import json
import os
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import torch
from browser import browser, needs_browser
from markup import obeyed
from PIL import Image
from raw_files import clicks, numbered, write_media, write_raw

import mc3
from mc3.cli import main
from mc3.config import Config
from mc3.data import manifest, prepare, tokenizer
from mc3.data.media import waveforms_of
from mc3.data.shards import read_index
from mc3.errors import ConfigError, DataError
from mc3.extra import mine, own_video
from mc3.model import MC3

HEADER = "path,start_sec,end_sec\n"
NAME = """a: <b>häuser & "><img src=x onerror='window.ran=1'> \u202e#1.mp4"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos, one of them with an awkward name, a damaged one and one without sound."""
    folder = tmp_path_factory.mktemp("my videos")
    for name, seconds in (("plain.mp4", 9.0), (NAME, 12.0)):
        write_media(folder / name, seconds, sound=clicks(seconds, np.arange(0.7, seconds, 1.3), 16000))
    (folder / "broken.mp4").write_bytes(b"no video")
    write_media(folder / "silent.mov", 3.0)
    (folder / "notes.txt").write_text("no video either")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from small_work import mini, tiny

    from mc3 import config

    torch.manual_seed(0)
    settings = config.build(Config, tiny(mini(tmp_path_factory.mktemp("work"))))
    path = tmp_path_factory.mktemp("checkpoint") / "final"
    MC3(settings.model, tokenizer.train(["washes a plate"], 512)).eval().save(path)
    return path


def discover(folder: Path, checkpoint: Path, *arguments: str) -> int:
    return main(["discover", str(folder), "--checkpoint", str(checkpoint), *arguments]) or 0


def test_a_folder_with_bad_files_does_the_rest_lists_them_and_has_an_exit_code_of_its_own(
    folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "all.json"
    assert discover(folder, checkpoint, "--out", str(out), "--top", "3", "--text", "washes a plate") == own_video.FAILED
    table = pd.DataFrame(json.loads(out.read_text()))
    assert set(table["file"]) == {str(folder / "plain.mp4"), str(folder / NAME)}
    printed = capsys.readouterr().out
    assert printed.startswith(f"checkpoint {checkpoint}: its training data is not recorded here")
    left = [line for line in printed.splitlines() if line.startswith("left out: ")]
    assert [Path(line.split(".m")[0]).name for line in left] == ["broken", "silent"]
    for file, own in table.groupby("file"):
        block = printed.split(f"{file}: {len(own)} windows\n")[1].splitlines()[1:4]
        assert [float(line.split()[0]) for line in block] == own[own["peak"].between(1, 3)].sort_values("peak")[
            "start_sec"
        ].tolist()
    assert discover(folder / "plain.mp4", checkpoint, "--out", str(tmp_path / "one.csv")) == 0
    one = pd.read_csv(tmp_path / "one.csv")
    same = table[table["file"] == str(folder / "plain.mp4")]
    np.testing.assert_allclose(one["similarity"], same["similarity"], atol=1e-5)


def test_the_moments_are_cut_out_with_their_sound(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    picture = tmp_path / "timeline.png"
    discover(folder, checkpoint, "--extract", str(tmp_path / "clips"), "--top", "2", "--picture", str(picture))
    assert Image.open(picture).width > 900
    files = sorted((tmp_path / "clips").iterdir())
    assert len(files) == 4
    for file in files:
        with av.open(str(file)) as clip:
            assert len(clip.streams.audio) == 1
            assert clip.duration / av.time_base == pytest.approx(1.5, abs=0.1)


def test_what_a_checkpoint_learned_is_said(mini_config: Config, checkpoint: Path, tmp_path: Path) -> None:
    own = mini_config.paths.final("mc3", 0)
    shutil.copytree(checkpoint, own)
    assert "generated world of drawings" in own_video.open_model(mini_config, own).about
    assert "not recorded here" in own_video.open_model(mini_config, checkpoint).about
    model = own_video.open_model(mini_config, checkpoint)
    model.about = "three kitchens"
    model.save_pretrained(tmp_path / "shared")
    assert own_video.open_model(mini_config, tmp_path / "shared").about.endswith("shared: trained on three kitchens")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--every", "0"], "--every 0.0: give more than 0 seconds"), (["--every", "nan"], "--every nan: give more than"),
     (["--window", "-1"], "--window -1.0: give more"), (["--top", "-1"], "--top -1: give 1 or more"),
     (["--out", "x.txt"], "give a name that ends in .csv or .json"), (["--page", "x.txt"], "ends in .html"),
     (["--narrations", "none.csv"], "no file none.csv"), (["--out", "none/x.csv"], "there is no folder"),
     (["--picture", "x.gif"], "ends in .png or .svg or .pdf"), (["--extract", "none/clips"], "there is no folder")],
)  # fmt: skip
def test_options_are_checked_before_any_work(folder: Path, capsys, arguments: list[str], message: str) -> None:
    assert main(["discover", str(folder), *arguments]) == 1
    assert message in capsys.readouterr().err


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    for name, message in (("https://a.b/c.mp4", "is an address; download"), (str(tmp_path), "has no such file; known"),
                          (str(tmp_path / "none.mp4"), "no file .*none.mp4")):  # fmt: skip
        with pytest.raises(DataError, match=message):
            own_video.files_of([name])
    with pytest.raises(ConfigError, match=r"--out .*: give a name that ends"):
        own_video.check_targets(out=(Path("x"), [".csv"]))


def test_narrations_in_a_window_are_compared_with_its_sound(folder, checkpoint, tmp_path, capsys) -> None:
    rows = ["video_uid,narration_time,clip_text", "plain,2.0,#C C washes a plate", "plain,2.2,#C C opens a door",
            "plain,soon,#C C washes a plate", "other,1.0,#C C washes a plate"]  # fmt: skip
    told, out = tmp_path / "narrations.csv", tmp_path / "all.csv"
    told.write_text("\n".join(rows) + "\n")
    discover(
        folder / "plain.mp4", checkpoint, "--narrations", str(told), "--out", str(out), "--text", "C washes a plate"
    )
    assert "1 narrations left out: narration time is no number" in capsys.readouterr().out
    table = pd.read_csv(out)
    inside = [start for start in table["start_sec"] if start <= 2.2 and start + 1.5 >= 2.0]
    assert table.loc[table["narration"].notna(), "start_sec"].tolist() == inside
    nearest = table.loc[table["narration"].notna()].set_index("start_sec")
    assert nearest["narration"].tolist() == [
        "C washes a plate" if abs(start + 0.75 - 2.0) <= abs(start + 0.75 - 2.2) else "C opens a door"
        for start in inside
    ]
    same = nearest[nearest["narration"] == "C washes a plate"]
    np.testing.assert_allclose(same["audio_text"], same["text: C washes a plate"], atol=1e-5)
    assert table.loc[table["narration"].isna(), "audio_text"].isna().all()


def make_awkward(folder: Path) -> dict[str, str]:
    """Files as users have them; by name a part of what is said of those that cannot be read."""
    sound = clicks(4.0, np.arange(0.3, 4, 0.7), 16000)
    write_media(folder / "8 kHz ж.mp4", 4.0, sound=sound[::2], rate=8000)
    write_media(folder / "48 kHz.mkv", 4.0, sound=sound.repeat(3), rate=48000)
    with av.open(str(folder / "surround.mkv"), "w") as file:
        video = file.add_stream("libx264", rate=8, width=64, height=64, pix_fmt="yuv420p")
        audio = file.add_stream("pcm_s16le", rate=48000, layout="5.1")
        for i in range(32):
            file.mux(video.encode(av.VideoFrame.from_ndarray(numbered(i), format="rgb24")))
        file.mux(video.encode())
        wide = (sound.repeat(3)[None] * 32767).astype(np.int16).repeat(6, 0)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wide.T.reshape(1, -1)), format="s16", layout="5.1")
        frame.sample_rate, frame.pts = 48000, 0
        file.mux(audio.encode(frame))
        file.mux(audio.encode())
    with av.open(str(folder / "variable rate.mp4"), "w") as file:
        video = file.add_stream("libx264", rate=30, width=64, height=64, pix_fmt="yuv420p")
        video.codec_context.time_base = Fraction(1, 1000)
        audio = file.add_stream("aac", rate=16000, layout="mono")
        for number, at in enumerate([*range(0, 2000, 33), *range(2000, 4000, 400)]):
            frame = av.VideoFrame.from_ndarray(numbered(number), format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 1000)
            file.mux(video.encode(frame))
        file.mux(video.encode())
        heard = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        heard.sample_rate, heard.pts = 16000, 0
        file.mux(audio.encode(heard))
        file.mux(audio.encode())
    write_media(folder / "sound outlasts.mp4", 2.5, sound=clicks(6.0, [0.5, 1.2, 4.0], 16000))
    whole = write_media(folder / "whole.mp4", 8.0, fps=25, sound=clicks(8.0, np.arange(0.3, 8, 0.7), 16000))
    data = bytearray(whole.read_bytes())
    (folder / "cut.mp4").write_bytes(bytes(data[: len(data) // 2]))
    middle = len(data) // 2
    data[middle : middle + 3000] = np.random.default_rng(0).bytes(3000)
    (folder / "garbled.mp4").write_bytes(data)
    whole.unlink()
    (folder / "empty.mp4").write_bytes(b"")
    write_media(folder / "blip.mp4", 0.5, sound=clicks(0.5, [0.2], 16000))
    write_media(folder / "mute.mp4", 3.0)
    (folder / "folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")  # nobody writes to it
    return {"cut.mp4": "", "empty.mp4": "", "blip.mp4": "too little for a window", "mute.mp4": "has no sound",
            "folder.mp4": "", "pipe.mp4": ""}  # fmt: skip


def test_awkward_files_are_scored_or_named_and_the_rest_is_done(checkpoint, tmp_path, capsys) -> None:
    (folder := tmp_path / "ordner mit ü").mkdir()
    refused = make_awkward(folder)
    out = tmp_path / "all.csv"
    assert discover(folder, checkpoint, "--out", str(out)) == own_video.FAILED
    left = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out: ")]
    refused |= {"garbled.mp4": ""} if any("/garbled.mp4" in line for line in left) else {}  # or what is lost is bridged
    assert len(left) == len(refused)
    for name, why in refused.items():
        assert any(f"/{name}" in line and why in line for line in left), (name, left)
    table = pd.read_csv(out)
    assert ("garbled.mp4" in refused) != table["file"].str.contains("garbled").any()
    done = {Path(name).name for name in table["file"]}
    assert done - {"garbled.mp4"} == {
        "8 kHz ж.mp4",
        "48 kHz.mkv",
        "surround.mkv",
        "variable rate.mp4",
        "sound outlasts.mp4",
    }
    assert table.loc[table["file"].str.contains("outlasts"), "end_sec"].max() <= 2.5 + 1e-6
    assert np.isfinite(table["similarity"]).all()
    same = table.pivot(index="start_sec", columns="file", values="similarity").dropna()
    wide, mono = (same.filter(like=name).squeeze() for name in ("surround", "48 kHz"))
    np.testing.assert_allclose(wide, mono, atol=0.05)  # the same clicks, from six channels or AAC


def test_an_index_is_searched_by_text_file_and_sound_and_its_page_plays(folder, checkpoint, tmp_path, capsys) -> None:
    (tmp_path / "words.txt").write_text("washes a plate\n\nopens a <door>\n")
    arguments = ["--checkpoint", str(checkpoint)]
    made = main(["index", str(folder), str(tmp_path / "words.txt"), "--out", str(tmp_path / "index"), *arguments])
    assert made == own_video.FAILED
    printed = capsys.readouterr().out
    assert "left out: " in printed
    assert "broken.mp4 cannot be decoded" in printed
    assert f"{6 + 8 + 2 + 2} rows in" in printed  # 9 s, 12 s and the silent 3 s, in clips of 1.5 s, and two texts
    page, out, mux = tmp_path / "page.html", tmp_path / "found.json", tmp_path / "mux.mp4"
    query = [str(tmp_path / "index"), str(folder / "silent.mov"), "--page", str(page), "--out", str(out)]
    assert main(["retrieve", *query, "--mux", str(mux), "--top", "3", *arguments]) == 0
    found = json.loads(out.read_text())
    assert [row["rank"] for row in found] == [1, 2, 3]
    assert (
        main(["retrieve", str(tmp_path / "index"), "washes a plate", "--to", "text", "--out", str(out), *arguments])
        == 0
    )
    assert json.loads(out.read_text())[0]["text"] == "washes a plate"
    with av.open(str(mux)) as file, av.open(str(folder / "silent.mov")) as source:
        assert [packet.size for packet in file.demux(video=0)] == [packet.size for packet in source.demux(video=0)]
        assert file.streams.audio[0].duration * file.streams.audio[0].time_base == pytest.approx(3.0, abs=0.1)
    best = found[0]
    heard, given = (
        next(waveforms_of(Path(name), [(start, start + 2.0)], 16000))
        for name, start in ((mux, 0.5), (best["file"], best["start_sec"] + 0.5))
    )
    spread = np.convolve(np.abs(given), np.ones(400), "same"), np.convolve(np.abs(heard), np.ones(400), "same")
    assert np.corrcoef(*spread)[0, 1] > 0.8  # the same clicks at the same times, encoded again


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["a.mp4"], "no file a.mp4; give a media file"), (["https://a.b/c"], "is an address"),
     (["x", "--to", "smell"], "to is 'smell'; choose from audio, video, text"), (["x", "--top", "0"], "--top 0"),
     (["x", "--mux", "m.avi"], "ends in .mp4 or"), (["x", "--to", "video", "--approximate"], "has no graph")],
)  # fmt: skip
def test_a_query_that_cannot_be_is_one_sentence(folder, checkpoint, tmp_path, capsys, arguments, message) -> None:
    main(["index", str(folder / "plain.mp4"), "--out", str(tmp_path / "index"), "--checkpoint", str(checkpoint)])
    capsys.readouterr()
    assert main(["retrieve", str(tmp_path / "index"), *arguments, "--checkpoint", str(checkpoint)]) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def clips_of_folder(folder: Path) -> pd.DataFrame:
    rows = [
        (name, 0.5 * k, 0.5 * k + 1.5, f"clip {k}") for name in ("plain.mp4", NAME, "broken.mp4") for k in (4, 0, 9)
    ]
    return pd.DataFrame(rows, columns=["path", "start_sec", "end_sec", "note"])


def test_filter_scores_as_the_model_does_in_any_number_of_processes(folder, checkpoint, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(mine, "CLIPS_PER_PART", 2)
    clips = clips_of_folder(folder)
    clips.to_csv(tmp_path / "clips.csv", index=False)
    common = ["filter", str(tmp_path / "clips.csv"), "--root", str(folder), "--checkpoint", str(checkpoint)]
    assert main([*common, "--out", str(tmp_path / "one.csv")]) == own_video.FAILED
    one = pd.read_csv(tmp_path / "one.csv")
    model = mc3.load(checkpoint)
    for row in one.itertuples():
        part = (folder / row.path, row.start_sec, row.end_sec)
        assert row.score == pytest.approx(float(model.similarity(video=part, audio=part)), abs=1e-5)
    pd.testing.assert_frame_equal(
        one.drop(columns="score"), clips[clips["path"] != "broken.mp4"].reset_index(drop=True)
    )
    shared = [*common, "--out", str(tmp_path / "two.csv")]
    for rank in "01":
        assert main([*shared, "--rank", rank, "--world", "2"]) == 0
    assert not (tmp_path / "two.csv").exists()
    monkeypatch.setattr(mine, "_scored", None)  # all of it is there: nothing may be scored again
    assert main(shared) == own_video.FAILED
    assert (tmp_path / "two.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert not (tmp_path / "two.csv.parts").exists()


def test_filter_keeps_the_best_share_or_those_from_a_threshold_on(folder, checkpoint, tmp_path) -> None:
    clips = clips_of_folder(folder).query("path != 'broken.mp4'")
    clips.assign(split=["train"] * 4 + ["test"] * 2).to_parquet(tmp_path / "clips.parquet")
    common = ["filter", str(tmp_path / "clips.parquet"), "--root", str(folder), "--checkpoint", str(checkpoint)]
    out = tmp_path / "out.parquet"
    main([*common, "--out", str(out)])
    scores = pd.read_parquet(out)["score"]
    main([*common, "--out", str(out), "--keep", "0.5"])
    assert sorted(pd.read_parquet(out)["score"]) == sorted(scores)[3:]
    main([*common, "--out", str(out), "--threshold", str(sorted(scores)[2])])
    assert sorted(pd.read_parquet(out)["score"]) == sorted(scores)[2:]
    main([*common, "--out", str(out), "--keep", "0.25", "--split", "train"])
    table = pd.read_parquet(out)
    assert table["split"].tolist().count("test") == 2
    assert table.loc[table["split"] == "test", "score"].isna().all()
    assert table.loc[table["split"] == "train", "score"].tolist() == pytest.approx([scores[:4].max()], abs=1e-5)


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [("path,start_sec\na,1\n", [], "has no column end_sec"), (f"{HEADER}a,2,1\n", [], "row 1: needs a path"),
     (f"{HEADER}a,x,1\n", [], "row 1"), (f"{HEADER}a,0,1\n", ["--keep", "2"], "--keep 2.0"),
     (f"{HEADER}a,0,1\n", ["--split", "train"], "has no column split"), ("", [], "is damaged (No columns to parse"),
     (f"{HEADER}a,0,1\n", ["--rank", "2", "--world", "2"], "rank 2 is not one of"),
     (f"{HEADER}a,0,1\n", ["--rank", "2"], "go together")],
)  # fmt: skip
def test_a_table_that_cannot_be_filtered_is_one_sentence(tmp_path, capsys, content, arguments, message) -> None:
    (tmp_path / "clips.csv").write_text(content)
    assert main(["filter", str(tmp_path / "clips.csv"), "--out", str(tmp_path / "o.csv"), *arguments]) == 1
    assert message in capsys.readouterr().err


def test_shards_are_cut_from_a_filtered_manifest(mini_config: Config, checkpoint: Path) -> None:
    """Of all the training clips, the best half; the rest of the manifest stays."""
    work = mini_config.paths.work
    write_raw(mini_config)
    manifest.write(mini_config)
    before, out = manifest.read(work / "manifest.parquet"), work / "filtered.parquet"
    mine.run(mini_config, checkpoint, work / "manifest.parquet", out, mini_config.paths.raw, "train", keep=0.5)
    kept = manifest.read(out)
    chosen = (before["dataset"] == "ego4d") & (before["split"] == "train")
    assert len(kept) == (~chosen).sum() + round(chosen.sum() / 2)
    prepare.write(mini_config, out)
    index = read_index(mini_config.paths.shards)
    assert set(index["clip_id"]) <= set(kept["clip_id"])
    assert index.loc[(index["dataset"] == "ego4d") & (index["split"] == "train"), "score"].notna().all()


def test_each_command_runs_on_real_recordings(shared_data: Path, checkpoint: Path, tmp_path: Path, capsys) -> None:
    """Of the three videos one is silent; of ESC-10 a folder of sounds."""
    videos, common = shared_data / "video", ["--checkpoint", str(checkpoint)]
    table, out = tmp_path / "all.csv", tmp_path / "found.json"
    assert main(["discover", str(videos), "--out", str(table), *common]) == own_video.FAILED
    left = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out: ")]
    assert len(left) == 1
    assert "mmaction2_test_noaudio.mp4 has no sound" in left[0]
    scored = pd.read_csv(table)
    assert {Path(name).name for name in scored["file"]} == {"mmaction2_test.avi", "egoblur_glasses_table.mp4"}
    sounds = next(folder for folder in sorted((shared_data / "audio" / "esc10").iterdir()) if folder.is_dir())
    assert main(["index", str(videos), str(sounds), "--out", str(tmp_path / "index"), *common]) == 0
    silent, mux = videos / "mmaction2_test_noaudio.mp4", tmp_path / "mux.mp4"
    found = ["--out", str(out), "--mux", str(mux), "--page", str(tmp_path / "page.html")]
    assert main(["retrieve", str(tmp_path / "index"), str(silent), *found, *common]) == 0
    assert len(json.loads(out.read_text())) == 10
    with av.open(str(mux)) as file:
        assert (len(file.streams.video), len(file.streams.audio)) == (1, 1)
    clips = pd.DataFrame({"path": ["mmaction2_test.avi"] * 3, "start_sec": [0.0, 2.0, 4.0], "end_sec": [1.5, 3.5, 5.5]})
    clips.to_csv(tmp_path / "clips.csv", index=False)
    kept = tmp_path / "kept.csv"
    root = ["--root", str(videos), "--keep", "0.34", "--out", str(kept)]
    assert main(["filter", str(tmp_path / "clips.csv"), *root, *common]) == 0
    windows = scored[scored["file"].str.endswith("avi")].set_index("start_sec")["similarity"][[0.0, 2.0, 4.0]]
    assert pd.read_csv(kept)[["start_sec", "score"]].to_numpy().tolist() == [
        [windows.idxmax(), pytest.approx(windows.max(), abs=1e-4)]
    ]


@needs_browser
def test_the_page_escapes_names_and_a_click_plays_the_moment_with_sound(folder, checkpoint, tmp_path) -> None:
    page = tmp_path / "page.html"
    discover(folder, checkpoint, "--page", str(page), "--top", "2")
    assert obeyed(page.read_text()) == []
    assert "<b>" not in page.read_text()
    with browser() as tab:
        tab.open(page.as_uri())
        assert tab.run("document.querySelector('h2').textContent") == NAME
        tab.wait("document.querySelector('video').readyState >= 1")
        tab.run("document.querySelector('section button').scrollIntoView({block: 'center'})")
        x, y, start = tab.run("""(() => { const b = document.querySelector('section button');
            const r = b.getBoundingClientRect(); return [r.x + 5, r.y + 5, Number(b.dataset.from)]; })()""")
        tab.click(x, y)
        tab.wait(f"document.querySelector('video').currentTime > {start + 0.3}")
        assert tab.run("document.querySelector('video').webkitAudioDecodedByteCount") > 0
        tab.wait("document.querySelector('video').paused")  # at the end of the moment
        assert tab.run("document.querySelector('video').currentTime") < start + 2.5
        assert tab.run("typeof window.ran") == "undefined"
        assert tab.errors == []
        assert tab.outside() == []


@needs_browser
def test_the_page_of_a_search_escapes_texts_and_its_players_play(folder, checkpoint, tmp_path) -> None:
    (tmp_path / "words.txt").write_text("<script>document.title = 'owned'</script>\n")
    common = ["--checkpoint", str(checkpoint)]
    main(["index", str(folder / NAME), str(tmp_path / "words.txt"), "--out", str(tmp_path / "index"), *common])
    for to in ("video", "text"):
        page = tmp_path / f"{to}.html"
        main(["retrieve", str(tmp_path / "index"), "<i>query</i>", "--to", to, "--page", str(page), *common])
        with browser() as tab:
            tab.open(page.as_uri())
            assert tab.run("document.querySelector('h1').textContent") == "<i>query</i>"
            assert tab.run("document.title") == "MC3: retrieved"
            if to == "video":
                tab.wait("document.querySelector('video').readyState >= 1")
                start = tab.run("document.querySelector('video').currentTime")
                tab.run("document.querySelector('video').muted = true, document.querySelector('video').play()")
                tab.wait(f"document.querySelector('video').currentTime > {start} + 0.3")
            assert tab.errors == []
            assert tab.outside() == []
