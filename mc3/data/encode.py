"""Writing MP4 files: pictures as H.264 and mono sound as AAC, with PyAV.

One thread and no version strings: the same input gives the same bytes.
"""

from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np

GOP_SEC = 3  # from one key frame to the next, long enough that readers have to seek
TICKS = 90_000  # a second, of pictures of which a part is shown
SOUND_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)  # AAC's


def encode(
    target: Path | BinaryIO, pictures: Iterable[np.ndarray], fps: float | Fraction, sound: np.ndarray | None,
    rate: int, *, part: tuple[float, float] | None = None, crf: int = 23,
) -> None:  # fmt: skip
    """Write `pictures` (uint8 [T, H, W, 3], H and W even) and `sound` (float32 [S], or none) as H.264 + AAC.

    `fps` pictures a second, at a constant rate; `rate` samples a second, one of `SOUND_RATES`. The file lasts for the
    `part` (start, end) of the pictures' time, in seconds, which begins in the first and ends in the last one; by
    default for all of it. The sound begins with the file. A path's index comes first, so that browsers play it while it
    arrives. `crf` is x264's quality, better when lower. `ValueError` without a picture.
    """
    pictures, own = iter(pictures), Fraction(fps).limit_denominator(1001)
    if (first := next(pictures, None)) is None:
        raise ValueError("no pictures to encode")
    options = {"fflags": "+bitexact"} | ({"movflags": "+faststart"} if isinstance(target, Path) else {})
    file = str(target) if isinstance(target, Path) else target
    x264 = {"preset": "ultrafast", "crf": str(crf), "threads": "1"}
    with av.open(file, "w", format="mp4", options=options) as container:
        video = container.add_stream("libx264", rate=own, options=x264)
        video.height, video.width, video.pix_fmt = *first.shape[:2], "yuv420p"
        video.codec_context.gop_size = round(GOP_SEC * own)
        video.codec_context.flags |= av.codec.context.Flags.bitexact
        if part:
            video.codec_context.time_base = Fraction(1, TICKS)
            video.codec_context.flags |= av.codec.context.Flags.frame_duration
        if sound is not None:
            audio = container.add_stream("aac", rate=rate, layout="mono", options={"aac_coder": "fast"})
            audio.bit_rate = 64_000
            audio.codec_context.flags |= av.codec.context.Flags.bitexact
        for number, picture in enumerate(chain([first], pictures)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if part:
                times = np.clip([float(number / own), float((number + 1) / own)], *part) - part[0]
                begin, end = (round(float(time) * TICKS) for time in times)
                frame.pts, frame.duration, frame.time_base = begin, end - begin, Fraction(1, TICKS)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound is not None:
            for start in range(0, len(sound), rate):
                heard = av.AudioFrame.from_ndarray(sound[None, start : start + rate], format="fltp", layout="mono")
                heard.sample_rate, heard.pts = rate, start
                container.mux(audio.encode(heard))
            container.mux(audio.encode(None))
