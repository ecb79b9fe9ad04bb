"""Memory and speed of `mc3 discover`, `mc3 index` and `mc3 filter` on a video of hours.

`python benchmarks/own_video.py VIDEO.mp4 --hours 2 --out moments`: the video is repeated, without encoding it again,
until it lasts so long. Each command runs in a process of its own, whose peak memory the kernel reports.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av


def repeat(source: Path, out: Path, seconds: float) -> float:
    """Write a video's packets again and again, one after the other; returns how long the result is."""
    with av.open(str(source)) as file, av.open(str(out), "w") as target:
        copies = {stream.index: target.add_stream_from_template(stream) for stream in file.streams}
        packets = [packet for packet in file.demux() if packet.dts is not None]
        shown = [(bytes(p), p.stream.index, p.pts, p.dts, p.duration, p.time_base, p.is_keyframe) for p in packets]
        ends = [float((p.dts + p.duration) * p.time_base) for p in packets]
        length = max(ends) - min(float(p.dts * p.time_base) for p in packets)
        turns = int(seconds / length) + 1
        for turn in range(turns):
            for data, index, pts, dts, duration, unit, key in shown:
                packet = av.Packet(data)
                shift = round(turn * length / unit)
                packet.stream, packet.time_base, packet.duration = copies[index], unit, duration
                packet.pts, packet.dts, packet.is_keyframe = pts + shift, dts + shift, key
                target.mux(packet)
    return turns * length


def main() -> None:
    """Print a line for each command: seconds, times faster than the video plays, peak memory."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--checkpoint", default="data/mini/checkpoints/mc3-0/final")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        length = repeat(options.video, place / "long.mp4", options.hours * 3600)
        (place / "clips.csv").write_text(
            "path,start_sec,end_sec\n" + "".join(f"long.mp4,{t},{t + 1.5}\n" for t in range(0, int(length) - 2, 2))
        )
        commands = {
            "discover": [str(place / "long.mp4"), "--page", str(place / "page.html"), "--out", str(place / "all.csv")],
            "index": [str(place / "long.mp4"), "--out", str(place / "index")],
            "filter": [str(place / "clips.csv"), "--root", folder, "--out", str(place / "kept.csv"), "--keep", "0.3"],
        }
        print(f"{options.video} for {length / 3600:.2f} h, {(place / 'long.mp4').stat().st_size / 1e6:.0f} MB")
        for name, arguments in commands.items():
            began = time.monotonic()
            command = [sys.executable, "-m", "mc3.cli", name, *arguments, "--checkpoint", options.checkpoint]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _, status, used = os.wait4(process.pid, 0)
            if status:
                raise SystemExit(f"{name} failed")
            seconds = time.monotonic() - began
            print(f"{name}: {seconds:.0f} s, {length / seconds:.0f} x real time, {used.ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
