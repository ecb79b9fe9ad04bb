"""Speed of cutting clips in one pass over a video (`mc3.data.media.clips_of`), against one seek for each clip.

    python benchmarks/prepare.py

Both decode with one thread, resize with `media.upright` and encode a shard's members with `prepare.members_of`. They
alternate on the same stretches of a video, and their clips are compared. The videos are generated: 1080p30 H.264 with
B-frames at 4 Mbit/s and AAC at 48 kHz, a moving camera over a rough surface with sensor noise, as long as Ego4D's mean.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from PIL import Image

from mc3 import config
from mc3.data import media, prepare
from mc3.data.audio import cut

MINUTES = 23  # 3,670 hours in 9,645 videos
WIDTH, HEIGHT, FPS, BITRATE = 1920, 1080, 30, 4_000_000  # 1.8 GB an hour
KEY_FRAMES = {"2 s": (60, 480), "8.3 s": (250, 500)}  # pictures between key frames, and in the repeated segment
EVERY_SEC = {"dense": 2.0, "sparse": 30.0}
SOUND_RATE = 48000

Cutter = Callable[[Path, list[tuple[float, float]], config.Clips], Iterator[media.Clip]]


def surface(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Random brightness at three scales, uint8 [height, width]."""
    total = np.zeros((height, width), np.float32)
    for scale in (8, 32, 128):
        rough = Image.fromarray(rng.random((height // scale + 1, width // scale + 1), np.float32))
        total += np.asarray(rough.resize((width, height)))
    return (40 + total / 3 * 170).astype(np.uint8)


def pictures(rng: np.random.Generator, count: int) -> Iterator[av.VideoFrame]:
    """Yields `count` yuv420p frames of a camera that sways over a surface."""
    width, height = WIDTH + 800, HEIGHT + 400
    luma, *chroma = (surface(rng, width // k, height // k) for k in (1, 2, 2))
    noise = rng.integers(0, 7, (HEIGHT + 64, WIDTH + 64), np.uint8)
    for i in range(count):
        x, y = 2 * int(200 + 195 * np.sin(i / 40)), 2 * int(100 + 95 * np.sin(i / 31))
        top, left = rng.integers(0, 64, 2)
        view = luma[y : y + HEIGHT, x : x + WIDTH] + noise[top : top + HEIGHT, left : left + WIDTH]
        colours = [c[y // 2 : (y + HEIGHT) // 2, x // 2 : (x + WIDTH) // 2].ravel() for c in chroma]
        planes = np.concatenate([view.ravel(), *colours]).reshape(HEIGHT * 3 // 2, WIDTH)
        yield av.VideoFrame.from_ndarray(planes, format="yuv420p")


def write_video(path: Path, interval: int, count: int) -> Path:
    """Write a video of `MINUTES` that repeats an encoded segment of `count` pictures and its sound."""
    rng = np.random.default_rng(interval)
    segment = path.with_suffix(".segment.mp4")
    with av.open(str(segment), "w") as file:
        options = {"preset": "veryfast", "sc_threshold": "0"}
        video = file.add_stream("libx264", FPS, options, width=WIDTH, height=HEIGHT, pix_fmt="yuv420p")
        video.bit_rate, video.gop_size = BITRATE, interval
        audio = file.add_stream(
            "aac", SOUND_RATE, {"aac_pns": "0"}, layout="stereo"
        )  # without noise that the decoder would add
        audio.bit_rate = 128_000
        for frame in pictures(rng, count):
            file.mux(video.encode(frame))
        file.mux(video.encode())
        sound = 0.05 * rng.standard_normal((2, SOUND_RATE * count // FPS)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(sound, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = SOUND_RATE, 0
        file.mux(audio.encode(frame))
        file.mux(audio.encode())
    with av.open(str(segment)) as source, av.open(str(path), "w") as file:
        copies = {s.index: file.add_stream_from_template(s) for s in source.streams}
        shift = dict.fromkeys(copies, 0)
        for _ in range(round(MINUTES * 60 * FPS / count)):
            source.seek(0)
            ends = dict(shift)
            for packet in source.demux():
                at = packet.stream.index
                if packet.size:
                    packet.pts, packet.dts = packet.pts + shift[at], packet.dts + shift[at]
                    ends[at] += packet.duration
                    packet.stream = copies[at]
                    file.mux(packet)
            shift = ends
    return path


def in_one_pass(path: Path, windows: list[tuple[float, float]], clips: config.Clips) -> Iterator[media.Clip]:
    """Yields the clips as `mc3 shards` cuts them."""
    return media.clips_of(path, windows, clips.frames, clips.frame_size, clips.sample_rate, clips.frame_width)


def seek_each(path: Path, windows: list[tuple[float, float]], clips: config.Clips) -> Iterator[media.Clip]:
    """Yields the clips; for each it opens the file, seeks to the key frame before it and decodes to its end."""
    for start, end in windows:
        with av.open(str(path)) as file:
            video, audio = file.streams.video[0], file.streams.audio[0]
            video.codec_context.thread_count = audio.codec_context.thread_count = 1
            zero = float(video.start_time * video.time_base)
            file.seek(round((max(0.0, start - 0.1) + zero) * av.time_base))
            times = media.frame_times(start, end, clips.frames)
            shown: list[av.VideoFrame | None] = [None] * len(times)
            sound = np.zeros(round((end - start + 2) * SOUND_RATE), np.float32)  # from a second before the start
            first, mono = round((start - 1) * SOUND_RATE), av.AudioResampler(format="fltp", layout="mono")
            wanted = {video.index, audio.index}
            for packet in file.demux(video, audio):
                if packet.stream.index not in wanted:
                    continue
                for frame in packet.decode():
                    moment = frame.time - zero
                    if isinstance(frame, av.VideoFrame):
                        shown = [frame if moment <= wish else old for wish, old in zip(times, shown, strict=True)]
                        if moment > times[-1]:
                            wanted.discard(video.index)
                        continue
                    (part,) = mono.resample(frame)
                    at = round(moment * SOUND_RATE) - first
                    low, high = max(0, at), min(len(sound), at + part.samples)
                    if low < high:
                        sound[low:high] = np.frombuffer(bytes(part.planes[0]), np.float32, part.samples)[
                            low - at : high - at
                        ]
                    if moment > end + 0.1:
                        wanted.discard(audio.index)
                if not wanted:
                    break
            scaler = VideoReformatter()
            size, width = clips.frame_size, clips.frame_width
            frames = np.stack([media.upright(frame, size, scaler, width) for frame in shown if frame])

        def samples(at: int, count: int, sound: np.ndarray = sound, first: int = first) -> np.ndarray:
            return sound[at - first : at - first + count]

        yield media.Clip(frames, cut(samples, start, end, SOUND_RATE, clips.sample_rate))


def timed(
    cutter: Cutter, path: Path, windows: list[tuple[float, float]], clips: config.Clips
) -> tuple[list[media.Clip], float, int]:
    """A cutter's clips, its CPU seconds and the bytes of its shard."""
    started = time.process_time()
    cut, size = [], 0
    for clip in cutter(path, windows, clips):
        size += sum(len(data) for data in prepare.members_of(clip, clips).values())
        cut.append(clip)
    return cut, time.process_time() - started, size


def main() -> None:
    """Print the table of benchmarks/README.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=12, help="clips per round")
    parser.add_argument("--rounds", type=int, default=2, help="measured rounds, after one to warm up")
    parser.add_argument("--folder", type=Path, help="existing folder that keeps the videos for the next run")
    args = parser.parse_args()
    torch.set_num_threads(1)
    clips = config.load("profiles/ego4d.yaml").clips
    print("| key frame every | a clip every | seeking, clips/s | one pass | ratio | 250,000 clips: core-hours | GB |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        for interval, (gop, count) in KEY_FRAMES.items():
            path = folder / f"gop{gop}.mp4"
            if not path.exists():
                write_video(path, gop, count)
            for every in EVERY_SEC.values():
                measure(path, interval, every, clips, args.rounds, args.clips)


def measure(path: Path, interval: str, every: float, clips: config.Clips, rounds: int, count: int) -> None:
    """Print one line of the table; a first round of two clips warms up and does not count."""
    rng = np.random.default_rng(0)
    spent, size = {seek_each: 0.0, in_one_pass: 0.0}, 0
    for number in range(rounds + 1):
        first = 60 + number * count * every % (MINUTES * 60 - 120 - count * every)
        times = first + every * (np.arange(count) + rng.uniform(-0.25, 0.25, count))
        windows = [(t - clips.before_sec, t + clips.after_sec) for t in times.tolist()]
        if number == 0:
            windows = windows[:2]
        results = []
        for cutter in list(spent) if number % 2 else list(spent)[::-1]:
            cut, seconds, data = timed(cutter, path, windows, clips)
            results.append(cut)
            if number:
                spent[cutter] += seconds
                size += data // 2
        for a, b in zip(*results, strict=True):
            assert (a.frames == b.frames).all()
            assert np.abs(a.waveform - b.waveform).max() < 0.01
    seeking, one_pass = (rounds * count / spent[cutter] for cutter in (seek_each, in_one_pass))
    hours = prepare.PAPER_CLIPS / one_pass / 3600
    gigabytes = prepare.PAPER_CLIPS * size / (rounds * count) / 1e9
    speeds = f"{seeking:.2f} | {one_pass:.2f} | {one_pass / seeking:.1f}"
    print(f"| {interval} | {every:.0f} s | {speeds} | {hours:.0f} | {gigabytes:.0f} |", flush=True)


if __name__ == "__main__":
    main()
