import itertools
import struct
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from raw_files import clicks, number_of, numbered, write_media
from scipy.signal import resample_poly

from mc3.data import media
from mc3.data.audio import cut, fbank, resample
from mc3.errors import DataError

FPS, SECONDS = 8, 40.0


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 s of numbered pictures with key frames every 2 s, and a click at every whole second."""
    sound = clicks(SECONDS, np.arange(1.0, SECONDS), 48000)
    return write_media(tmp_path_factory.mktemp("media") / "video.mp4", SECONDS, FPS, sound, 48000, gop=16)


def pictures_of(path: Path, start: float, end: float, frames: int, size: int) -> np.ndarray:
    return next(media.clips_of(path, [(start, end)], frames, size, rate=0)).frames


def sound_of(path: Path, start: float, end: float, rate: int) -> np.ndarray:
    return next(media.waveforms_of(path, [(start, end)], rate))


def onsets(waveform: np.ndarray, rate: int) -> np.ndarray:
    """Seconds at which a click begins: where the sound first rises over a third of its peak after 50 ms below it.

    Less than a step of 16 bits is silence.
    """
    loud = np.flatnonzero(np.abs(waveform) > max(np.abs(waveform).max() / 3, 2**-15))
    return loud[np.diff(loud, prepend=-rate) > rate // 20] / rate


@given(start=st.floats(-5, 100), length=st.floats(0.1, 10), frames=st.integers(1, 32))
def test_frame_times_are_the_centres_of_equal_parts(start: float, length: float, frames: int):
    edges = np.linspace(start, start + length, frames + 1)
    assert media.frame_times(start, start + length, frames) == pytest.approx((edges[:-1] + edges[1:]) / 2, abs=1e-9)


@settings(max_examples=25)
@given(starts=st.lists(st.floats(-1.0, 39.5), min_size=1, max_size=6), frames=st.integers(1, 6))
def test_one_pass_gives_the_pictures_on_screen_at_the_frame_times_of_any_windows(video: Path, starts, frames):
    windows = [(start, start + 1.5) for start in sorted(starts)]
    for (start, end), clip in zip(windows, media.clips_of(video, windows, frames, 64, rate=0), strict=True):
        times = media.frame_times(start, end, frames)
        near_change = np.abs(times * FPS - np.round(times * FPS)) < 1e-3
        seen = np.array([number_of(picture) for picture in clip.frames])
        expected = np.floor(times * FPS + 1e-6).clip(0, SECONDS * FPS - 1)
        assert (seen == expected)[~near_change].all()
        assert (np.abs(seen - expected) <= 1).all()


@settings(max_examples=25)
@given(start=st.floats(-0.5, 38.0), length=st.floats(1.2, 3.0), rate=st.sampled_from([16000, 24000, 44100, 48000]))
def test_clicks_are_heard_within_10_ms_of_their_time(video: Path, start: float, length: float, rate: int):
    assume(min(abs(edge - round(edge)) for edge in (start, start + length)) > 0.03)  # no click astride an edge
    waveform = sound_of(video, start, start + length, rate)
    assert len(waveform) == round(length * rate)
    expected = [t for t in np.arange(1.0, SECONDS) if start < t < start + length]
    assert onsets(waveform, rate) + start == pytest.approx(expected, abs=0.01)


def moving(number: int, width: int = 64, height: int = 64) -> np.ndarray:
    """A picture that differs from its neighbours everywhere by a little, so that any wrong reference shows."""
    y, x = np.mgrid[:height, :width]
    return np.stack([128 + 100 * np.sin(x / 9 + y / k + number / 5) for k in (7, 11, 17)], -1).astype(np.uint8)


NOISE = (0.1 * np.random.default_rng(0).standard_normal(30 * 48000)).astype(np.float32)


def write_moving(
    path: Path, codec: str = "libx264", x264: str = "", sound: str = "aac", pixels: str = "yuv420p", delay: int = 0,
    side: tuple[int, int] = (64, 64), every: tuple[int, ...] = (1,), **options: str,
) -> Path:  # fmt: skip
    """30 s at 12 pictures a second that begin `delay` of them after the sound (before, if < 0), noise and a tone.

    Of those pictures only each of `every` is there in turn; sound is coded without noise made by the decoder.
    """
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(len(NOISE)) / 48000)
    samples = np.round(32767 * (NOISE + tone)).astype(np.int16)[None]
    with av.open(str(path), "w") as file:
        options = {"g": "24", **({"x264-params": x264} if x264 else {}), **options}
        video = file.add_stream(codec, 12, options, width=side[0], height=side[1], pix_fmt=pixels)
        audio = file.add_stream(sound, 48000, {"aac_pns": "0"} if sound == "aac" else {}, layout="mono")
        audio.codec_context.open()
        step, done, number, steps = audio.codec_context.frame_size or 4000, 0, 0, itertools.cycle(every)
        while number < 360:
            frame = av.VideoFrame.from_ndarray(moving(number, *side), format="rgb24")
            frame.pts, frame.time_base = number + max(0, delay), Fraction(1, 12)
            file.mux(video.encode(frame))
            number += next(steps)
            while done < min(len(NOISE), number * 4000):
                part = np.ascontiguousarray(samples[:, done : done + step])
                heard = av.AudioFrame.from_ndarray(part, format="s16", layout="mono")
                heard.sample_rate, heard.pts = 48000, done + max(0, -delay) * 4000
                file.mux(audio.encode(heard))
                done += step
        file.mux(video.encode())
        file.mux(audio.encode())
    return path


KINDS: dict[str, dict[str, Any]] = {
    "24.mp4": {}, "24.mkv": {}, "24.ts": {}, "24.flv": {}, "24.avi": {"sound": "libmp3lame"},
    "1.mp4": {"g": "1"}, "100.mp4": {"g": "100"},
    "1000.mp4": {"g": "1000", "x264": "scenecut=0"}, "1000.ts": {"g": "1000", "x264": "scenecut=0"},
    "open.mp4": {"x264": "open-gop=1:bframes=4"}, "interlaced.mp4": {"x264": "interlaced=1:tff=1"},
    "refresh.mp4": {"x264": "intra-refresh=1"}, "refresh.mkv": {"x264": "intra-refresh=1"},
    "variable.mp4": {"every": (1, 1, 2, 5, 1, 9)}, "late.mp4": {"delay": 18}, "early.mp4": {"delay": -36},
    "10bit.mp4": {"pixels": "yuv420p10le"}, "odd.mkv": {"pixels": "yuv444p", "side": (77, 65)},
    "hevc.mp4": {"codec": "libx265", "x265-params": "log-level=none"},
    "vp9.webm": {"codec": "libvpx-vp9", "deadline": "realtime", "cpu-used": "8", "sound": "libopus"},
    "mpeg4.mp4": {"codec": "mpeg4", "bf": "2"}, "mpeg4.avi": {"codec": "mpeg4", "sound": "libmp3lame"},
    "mpeg4b.avi": {"codec": "mpeg4", "bf": "2", "sound": "pcm_s16le"},
}  # fmt: skip


@pytest.fixture(scope="module")
def moving_videos(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("moving")

    def made(kind: str) -> Path:
        return folder / kind if (folder / kind).exists() else write_moving(folder / kind, **KINDS[kind])

    return made


@cache
def plain(path: Path) -> tuple[np.ndarray, np.ndarray, int, np.ndarray]:
    """Times and pictures, first sample and sound of a file, from all of it decoded in order."""
    with av.open(str(path)) as file:
        shown = [(f.pts, media.upright(f, 64, VideoReformatter())) for f in file.decode(video=0)]
        unit, ticks, pictures = file.streams.video[0].time_base, [t for t, _ in shown], np.array([p for _, p in shown])
    with av.open(str(path)) as file:
        if file.format.name == "avi":  # in which the n-th picture shown has the time of the n-th stored
            ticks = sorted(p.dts for p in file.demux(video=0) if p.size)
    times = np.array([float((tick - ticks[0]) * unit) for tick in ticks])  # rounded once
    start = float(ticks[0] * unit)
    with av.open(str(path)) as file:
        decoder = media.decoder_of(file.streams.audio[0].codec_context)
        decoded = [frame for packet in file.demux(audio=0) for frame in decoder.decode(packet)]
        sound = np.concatenate([frame.to_ndarray().reshape(-1) for frame in decoded])
    sound = sound / np.float32(-np.iinfo(sound.dtype).min) if sound.dtype.kind == "i" else sound
    return times, pictures, round((decoded[0].time - start) * 48000), sound


def full(path: Path, start: float, end: float, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and sound, at its own rate, that a clip should have."""
    times, pictures, first, sound = plain(path)
    shown = np.searchsorted(times, media.frame_times(start, end, frames), "right") - 1
    at, count = round(start * 48000), round((end - start) * 48000)
    before, after = max(0, first - at), max(0, at + count - first - len(sound))
    heard = np.pad(sound, (before, after))[max(0, at - first) : max(0, at - first) + count]
    return pictures[np.maximum(0, shown)], heard


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12)
@example(starts=[1 / 3], frames=1)  # a time at which one picture gives way to the next
@given(starts=st.lists(st.floats(-1.0, 28.5), min_size=1, max_size=8), frames=st.integers(1, 5))
def test_skipped_packets_and_jumps_change_no_picture_and_no_sound(moving_videos, kind: str, starts, frames: int):
    path = moving_videos(kind)
    windows = [(start, start + 1.5) for start in sorted(starts)]
    for window, clip in zip(windows, media.clips_of(path, windows, frames, 64, 48000), strict=True):
        pictures, sound = full(path, *window, frames)
        assert (clip.frames == pictures).all()
        assert np.abs(clip.waveform - sound).max() < 1e-6


def test_aac_decoded_in_integers_is_that_of_the_usual_decoder_to_a_step_of_16_bits(moving_videos):
    path = moving_videos("24.mp4")
    with av.open(str(path)) as file:
        usual = np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])
        assert file.streams.audio[0].codec_context.name == "aac"
    assert np.abs(plain(path)[3] - usual).max() < 2 / 32768


@pytest.mark.parametrize("kind", ["24.mp4", "late.mp4", "early.mp4", "24.mkv", "24.ts"])
def test_sound_lies_where_it_was_put_before_and_after_a_jump(moving_videos, kind: str):
    late = KINDS[kind].get("delay", 0) / 12
    windows = [(4.0, 5.5), (25.0, 26.5)]
    for (start, _), clip in zip(windows, media.clips_of(moving_videos(kind), windows, 1, 64, 48000), strict=True):
        at = round((start + late) * 48000)
        lags = np.arange(-1200, 1201)
        likeness = [clip.waveform @ NOISE[at + lag : at + lag + 72000] for lag in lags]
        # Matroska's times and MP4's delays, written by FFmpeg, are whole milliseconds
        assert abs(lags[np.argmax(likeness)]) <= (48 if kind in ("24.mkv", "early.mp4") else 1)


def test_pictures_that_begin_after_the_sound_count_from_the_first_of_them(moving_videos):
    path = moving_videos("late.mp4")
    assert media.probe(path).duration_sec == pytest.approx(30.0, abs=0.1)
    assert [c.frames.shape for c in media.clips_of(path, [(-1.5, 0), (28.5, 30)], 4, 64, 16000)] == [(4, 64, 64, 3)] * 2


def test_names_in_another_encoding_than_utf_8_do_not_matter(video: Path, tmp_path: Path):
    path = tmp_path / "named.mp4"
    with av.open(str(video)) as source, av.open(str(path), "w") as file:
        file.metadata["title"] = "cafe"
        stream = file.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                file.mux(packet)
    path.write_bytes(path.read_bytes().replace(b"cafe", b"caf\xe9"))
    assert media.probe(path).fps == FPS
    assert (pictures_of(path, 1, 2, 3, 64) == pictures_of(video, 1, 2, 3, 64)).all()


def test_the_packet_queue_is_bounded_where_key_frames_are_far_apart(moving_videos, monkeypatch):
    monkeypatch.setattr(media, "MAX_QUEUE", 90)
    sizes, choose = [], media._Pictures._choose
    monkeypatch.setattr(media._Pictures, "_choose", lambda s, *a, **k: sizes.append(len(s.queue)) or choose(s, *a, **k))
    windows = [(float(t), t + 1.5) for t in range(0, 28, 3)]
    path = moving_videos("1000.mp4")
    for window, clip in zip(windows, media.clips_of(path, windows, 4, 64, rate=0), strict=True):
        assert (clip.frames == full(path, *window, 4)[0]).all()
    assert len(sizes) > 5
    assert max(sizes) <= 91


def test_pictures_that_no_shown_one_refers_to_are_not_decoded(moving_videos, monkeypatch):
    pushed, push = [], media._Pictures.push
    monkeypatch.setattr(media._Pictures, "push", lambda self, frame: (pushed.append(frame.pts), push(self, frame)))
    windows = [(float(t), t + 1.5) for t in range(0, 28, 4)]
    list(media.clips_of(moving_videos("24.mp4"), windows, 2, 64, rate=0))
    assert len(pushed) == len(set(pushed))  # none twice
    assert len(pushed) < 0.5 * 360


def test_a_gap_is_jumped_over_but_never_back_to_the_key_frame_that_was_read_last(moving_videos, monkeypatch):
    jumps, ahead = [], media._jumps
    monkeypatch.setattr(media, "_jumps", lambda *where: jumps.append(ahead(*where)) or jumps[-1])
    list(media.clips_of(moving_videos("100.mp4"), [(0.0, 1.5), (12.0, 13.5), (28.0, 29.5)], 4, 64, rate=0))
    assert jumps == [False, True]  # key frames at 0, 8.3, 16.7 and 25 s; the one at 8.3 s ended the first clip's group


def test_a_file_is_opened_once_and_read_forward(video: Path, monkeypatch):
    opened, packets = [], []
    open_file, feed = av.open, media._Pictures.feed
    monkeypatch.setattr(av, "open", lambda *a, **k: opened.append(a) or open_file(*a, **k))
    monkeypatch.setattr(media._Pictures, "feed", lambda self, packet: (packets.append(packet.dts), feed(self, packet)))
    list(media.clips_of(video, [(t, t + 1.5) for t in (0.3, 1.0, 2.0, 8.0, 14.5, 30.0, 30.2)], 4, 64, 16000))
    assert len(opened) == 1
    assert len(packets) > 60
    assert packets == sorted(packets)


def test_pictures_and_sound_of_a_clip_are_in_step(tmp_path: Path):
    flash = {"picture": lambda number: np.full((64, 64, 3), 255 * (number == 24), np.uint8)}
    path = write_media(tmp_path / "flash.mp4", 6.0, 8, clicks(6.0, [3.0], 44100), 44100, **flash)
    clip = next(media.clips_of(path, [(2.5, 4.5)], 400, 64, 16000))
    seen = media.frame_times(2.5, 4.5, 400)[clip.frames.mean((1, 2, 3)) > 127]
    heard = 2.5 + onsets(clip.waveform, 16000)
    assert seen.min() == pytest.approx(3.0, abs=0.01)
    assert heard == pytest.approx([3.0], abs=0.01)


def test_windows_must_ascend_and_beyond_the_ends_are_silence_and_the_edge_pictures(video: Path):
    before, after = media.clips_of(video, [(-1.0, 0.5), (39.5, 40.5)], 4, 64, 16000)
    assert (before.waveform[:15900] == 0).all()
    assert (after.waveform[8200:] == 0).all()
    assert [number_of(p) for p in before.frames] == [0, 0, 0, 2]
    assert [number_of(p) for p in after.frames] == [317, 319, 319, 319]
    with pytest.raises(ValueError, match="ascend"):
        next(media.clips_of(video, [(3.0, 4.5), (1.0, 2.5)], 4, 64, 16000))


def test_wide_pictures_are_cut_to_their_centre_without_stretching_and_portraits_to_a_square(tmp_path: Path):
    picture = np.zeros((96, 192, 3), np.uint8)
    picture[:, 48:144] = 255  # the central square
    path = write_media(tmp_path / "wide.mp4", 1.0, 8, picture=lambda i: picture)
    assert pictures_of(path, 0.0, 1.0, 2, 32).shape == (2, 32, 32, 3)
    assert pictures_of(path, 0.0, 1.0, 2, 32)[:, :, 2:-2].min() > 200
    portrait = av.VideoFrame.from_ndarray(np.zeros((128, 64, 3), np.uint8), format="rgb24")
    assert media.upright(portrait, 64, VideoReformatter(), 112).shape == (64, 64, 3)


@pytest.mark.parametrize(("turns", "cos", "sin"), [(1, 0, 1), (2, -1, 0), (3, 0, -1)])
def test_pictures_of_a_camera_held_sideways_stand_upright(tmp_path: Path, turns: int, cos: int, sin: int):
    def turned(path: Path) -> Path:
        data, one = path.read_bytes(), 1 << 16
        at = data.index(b"tkhd") + 4 + 40  # the display matrix, after version, times, ids, layer and volume
        matrix = struct.pack(">9i", cos * one, sin * one, 0, -sin * one, cos * one, 0, 0, 0, 1 << 30)  # clockwise
        path.write_bytes(data[:at] + matrix + data[at + 36 :])
        return path

    path = write_media(tmp_path / "upright.mp4", 1.0, 8, picture=lambda i: numbered(0b1000))
    upright = pictures_of(path, 0, 1, 1, 64)[0]
    assert (pictures_of(turned(path), 0, 1, 1, 64)[0] == np.rot90(upright, k=-turns)).all()
    wide = np.zeros((64, 112, 3), np.uint8)
    wide[:16, :48] = 200
    stored = np.ascontiguousarray(np.rot90(wide, k=turns))
    path = turned(write_media(tmp_path / "wide.mp4", 1.0, 8, picture=lambda i: stored))
    (shown,) = next(media.clips_of(path, [(0, 1)], 1, 64, 0, 112)).frames
    assert shown.shape == wide.shape
    assert np.abs(shown.astype(int) - wide).mean() < 5


@pytest.mark.parametrize(("own_rate", "rate"), [(24000, 16000), (44100, 16000), (48000, 16000), (16000, 24000)])
def test_resampling_agrees_with_scipy_on_sound_below_the_limit(own_rate: int, rate: int):
    t = np.arange(own_rate) / own_rate
    sound = (np.sin(2 * np.pi * 440 * t) + 0.5 * np.sin(2 * np.pi * 3000 * t)).astype(np.float32)
    ours, theirs = resample(sound, own_rate, rate), resample_poly(sound, rate, own_rate)
    middle = slice(rate // 10, -rate // 10)
    assert np.abs(ours[middle] - theirs[middle]).max() < 0.02


@given(start=st.floats(-1.0, 5.0), length=st.floats(0.05, 4.0), own_rate=st.sampled_from([16000, 24000, 44100, 48000]))
@settings(max_examples=40)
def test_a_cut_has_the_length_asked_for_and_begins_at_its_start(start: float, length: float, own_rate: int):
    def ramp(first: int, count: int) -> np.ndarray:  # every sample says its time
        return ((first + np.arange(count)) / own_rate).astype(np.float32)

    waveform = cut(ramp, start, start + length, own_rate, 16000)
    assert len(waveform) == round(length * 16000)
    expected = start + np.arange(len(waveform)) / 16000
    assert np.abs(waveform - expected).max() < 0.5 / own_rate + 0.004 * (abs(start) + length)


def reference_fbank(waveform: np.ndarray, rate: int, bins: int) -> np.ndarray:
    """Kaldi's filter bank from its documentation, in NumPy float64."""
    x = waveform.astype(np.float64) - waveform.astype(np.float64).mean()
    size, hop = rate // 40, rate // 100
    frames = np.lib.stride_tricks.sliding_window_view(x, size)[::hop].copy()
    frames -= frames.mean(1, keepdims=True)
    frames -= 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    frames *= 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / (size - 1))
    points = 1 << (size - 1).bit_length()
    power = np.abs(np.fft.rfft(frames, points)) ** 2

    def mel(hertz: np.ndarray | float) -> np.ndarray:
        return 1127 * np.log1p(np.asarray(hertz) / 700)

    edges = np.linspace(mel(20.0), mel(rate / 2), bins + 2)
    position = mel(np.arange(points // 2) * rate / points)
    rise = (position[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - position[:, None]) / (edges[2:] - edges[1:-1])
    weights = np.clip(np.minimum(rise, fall), 0, None)
    return np.log(np.maximum(power[:, : points // 2] @ weights, np.finfo(np.float32).eps))


@pytest.mark.parametrize(("rate", "bins"), [(16000, 128), (24000, 64)])
def test_the_log_mel_spectrogram_is_kaldis_as_computed_by_numpy_and_finite_in_silence(rate: int, bins: int):
    waveform = (0.1 * np.random.default_rng(0).standard_normal(rate) + 0.2).astype(np.float32)
    ours, reference = fbank(waveform, rate, bins), reference_fbank(waveform, rate, bins)
    assert ours.shape == reference.shape
    # a narrow low band between two FFT bins holds next to nothing; float32 shows there
    assert np.abs(ours - reference)[reference > -8].max() < 1e-2
    assert np.median(np.abs(ours - reference)) < 1e-4
    silence = fbank(np.zeros(3 * rate // 2, np.float32), rate, bins)
    assert silence.shape == (148, bins)
    assert np.isfinite(silence).all()


def test_missing_files_others_and_those_without_their_header_are_named(video: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"no media file .*absent\.mp4"):
        media.probe(tmp_path / "absent.mp4")
    (tmp_path / "text.mp4").write_text("hello " * 1000)
    (tmp_path / "half.mp4").write_bytes(video.read_bytes()[: video.stat().st_size // 2])  # PyAV writes the header last
    for read, name in itertools.product((pictures_of, sound_of), ("text.mp4", "half.mp4")):
        with pytest.raises(DataError, match=f"{name} cannot be decoded"):
            read(tmp_path / name, 0, 1, *(1, 64) if read is pictures_of else (16000,))


def test_a_file_cut_short_behind_its_header_is_refused(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 255, (160, 64, 64, 3), np.uint8)
    short = write_media(tmp_path / "short.mp4", 20.0, picture=lambda i: noise[i], movflags="faststart")
    short.write_bytes(short.read_bytes()[: short.stat().st_size // 2])
    assert pictures_of(short, 1.0, 2.5, 4, 64).shape == (4, 64, 64, 3)
    with pytest.raises(DataError, match=r"short\.mp4 .*(cut short|cannot be decoded|damaged)"):
        pictures_of(short, 15.0, 16.5, 4, 64)


def test_real_glasses_video_decodes_with_its_sound(shared_data: Path):
    path = shared_data / "video" / "egoblur_glasses_table.mp4"
    facts = media.probe(path)
    assert facts.fps == pytest.approx(10, abs=0.1)
    assert facts.audio_rate > 0
    clip = next(media.clips_of(path, [(0.0, 1.4)], 4, 112, 16000))
    assert clip.frames.shape == (4, 112, 112, 3)
    assert clip.frames.std() > 20
    level = 10 * np.log10((clip.waveform.astype(float) ** 2).mean())
    assert -90 < level < -60  # README of the samples: -75 dB


@pytest.mark.parametrize(("name", "sounds"), [("mmaction2_test_noaudio.mp4", None), ("mmaction2_test.avi", 24000)])
def test_real_video_without_sound_is_reported_and_avi_reads_like_mp4(shared_data: Path, name: str, sounds: int | None):
    path = shared_data / "video" / name
    assert (media.probe(path).audio_rate > 0) is bool(sounds)
    clips = list(media.clips_of(path, [(0.0, 1.5), (1.0, 2.5)], 4, 64, 16000))
    assert [clip.frames.shape for clip in clips] == [(4, 64, 64, 3)] * 2
    assert [clip.waveform if sounds is None else len(clip.waveform) for clip in clips] == [sounds] * 2
    if sounds is None:
        with pytest.raises(DataError, match="has no sound"):
            sound_of(path, 0, 1, 16000)


@pytest.mark.parametrize("name", ["egoblur_glasses_table.mp4", "mmaction2_test.avi"])
@pytest.mark.parametrize(("limit", "width"), [(96, 84), (76, 76)])  # 4:3 and 64 high, they are 85 wide: odd, less one
def test_a_wide_picture_has_the_whole_width_up_to_a_limit_and_the_square_one_inside(shared_data, name, limit, width):
    path, windows = shared_data / "video" / name, [(0.0, 1.4)]
    wide = next(media.clips_of(path, windows, 12, 64, 0, limit)).frames
    square = next(media.clips_of(path, windows, 12, 64, 0)).frames
    left = (wide.shape[2] - 64) // 2
    assert wide.shape == (12, 64, width, 3)
    assert (wide[:, :, left : left + 64] == square).all()


def test_a_file_whose_pictures_change_shape_is_a_fault(tmp_path: Path):
    both, parts = tmp_path / "both.ts", b""
    for width in (64, 96):
        part = np.full((64, width, 3), 90, np.uint8)
        parts += write_media(both, 2.0, picture=lambda i, part=part: part).read_bytes()
    both.write_bytes(parts)
    with pytest.raises(DataError, match=r"both\.ts changes the shape of its pictures"):
        list(media.clips_of(both, [(0.0, 1.5), (1.0, 2.5)], 4, 64, 0, 96))
    assert [c.frames.shape for c in media.clips_of(both, [(0.0, 1.5)], 4, 64, 0)] == [(4, 64, 64, 3)]


def test_pictures_of_real_videos_are_those_of_a_plain_decoder(shared_data: Path):
    path = shared_data / "video" / "mmaction2_test_noaudio.mp4"
    with av.open(str(path)) as file:
        frames = [(frame.time, frame) for frame in file.decode(video=0)]
    windows = [(0.3, 1.8), (1.1, 2.6), (2.0, 3.5)]
    for (start, end), clip in zip(windows, media.clips_of(path, windows, 4, 64, 0), strict=True):
        for time, picture in zip(media.frame_times(start, end, 4), clip.frames, strict=True):
            shown = [frame for at, frame in frames if at - frames[0][0] <= time][-1]
            assert (picture == media.upright(shown, 64, VideoReformatter())).all()


def test_real_recordings_last_as_long_as_their_samples(shared_data: Path):
    path = sorted((shared_data / "audio" / "esc10" / "001_Dog_bark").glob("*.ogg"))[0]
    with av.open(str(path)) as file:
        rate = file.streams.audio[0].rate
        plain = np.concatenate([f.to_ndarray().mean(0) for f in file.decode(audio=0)])
    assert media.probe(path).width == 0
    ours = sound_of(path, 0.5, 2.0, rate)
    assert ours == pytest.approx(plain[round(0.5 * rate) : round(2.0 * rate)], abs=1e-6)
    assert pictures_of(path, 0, 1, 1, 64) is None


@pytest.mark.parametrize("seed", range(3))
def test_a_file_with_damaged_bytes_is_refused(video: Path, tmp_path: Path, seed: int):
    data = bytearray(video.read_bytes())
    start = data.index(b"mdat") + 100
    for at in np.random.default_rng(seed).integers(start, start + (len(data) - start) // 2, 200):
        data[at] ^= 0xFF
    (tmp_path / "damaged.mp4").write_bytes(data)
    windows = [(float(t), t + 1.5) for t in range(0, 38, 2)]
    with pytest.raises(DataError, match=r"damaged\.mp4 (is damaged at|cannot be decoded)"):
        list(media.clips_of(tmp_path / "damaged.mp4", windows, 4, 64, 16000))
