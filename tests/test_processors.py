"""The same digits whatever instructions the processor has: decoding, features, initial weights, training in float64."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from raw_files import clicks, write_media
from safetensors.numpy import load_file
from small_training import SEED, settings
from small_work import mini

# Fewer instructions than this processor has, for each library that chooses its code by them.
PLAIN = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR AVX2 FMA3",
}
FFMPEG_FLAGS = {"no vector instructions": 0, "SSE": 0x1FF, "AVX2": 0x8FFFF}
x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="the switches are those of x86")


def run_python(program: str, *arguments: str, **environment: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", program, *arguments]
    ran = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    return ran.stdout.strip().splitlines()[-1]


CUT = """
import ctypes, hashlib, sys
from pathlib import Path
import av
libraries = {line.split()[-1] for line in open("/proc/self/maps") if "libavutil" in line}
if sys.argv[2]: ctypes.CDLL(libraries.pop()).av_force_cpu_flags(int(sys.argv[2]))
from mc3.data.media import clips_of
clip = next(clips_of(Path(sys.argv[1]), [(0.5, 2.0)], 4, 48, 16000))
print(hashlib.sha256(clip.frames.tobytes() + clip.waveform.tobytes()).hexdigest())
"""


@x86
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="finds the loaded FFmpeg in /proc")
@pytest.mark.parametrize("flags", FFMPEG_FLAGS.values(), ids=FFMPEG_FLAGS)
def test_the_pixels_and_samples_of_a_clip_are_every_processors(flags, tmp_path):
    rng = np.random.default_rng(0)
    sound = clicks(3.0, np.arange(0.2, 3, 0.3), 24000) + rng.normal(0, 0.05, 72000).astype(np.float32)
    video = write_media(tmp_path / "video.mp4", 3.0, 8, sound, 24000)
    assert run_python(CUT, str(video), str(flags)) == run_python(CUT, str(video), "")


FEATURES = """
import hashlib, numpy as np
from mc3.data.audio import fbank, resample
sound = np.random.default_rng(0).normal(0, 0.1, 36000).astype(np.float32)
sound = resample(sound, 24000, 16000)
print(hashlib.sha256(sound.tobytes() + fbank(sound).tobytes()).hexdigest())
"""


@x86
def test_resampling_and_log_mels_are_every_processors():
    assert run_python(FEATURES, **PLAIN) == run_python(FEATURES)


TRAIN = """
import sys
from mc3 import train
from mc3.config import load
for method in ("align", "mc3", "peers", "cm_acc"): print(train.run(load(sys.argv[1]), method, 0))
"""
EPOCHS = {"align": 4, "refine": 4}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, shards: Path) -> list[Path]:
    """The work folders of equal trainings, with all instructions and two threads, and with few and one thread."""
    works = []
    for threads, environment in ((2, {}), (1, PLAIN)):
        work = tmp_path_factory.mktemp("training") / "work"
        changed = settings(mini(work), shards)
        changed["train"] |= {"precision": "fp64", "stored": "float16", "threads": threads, "epochs": EPOCHS}
        (work / "params.yaml").write_text(yaml.safe_dump(changed))
        print(run_python(TRAIN, str(work / "params.yaml"), **environment))
        works.append(work)
    return works


@x86
@pytest.mark.parametrize("method", ["align", "mc3", "peers", "cm_acc"])
def test_a_training_in_float64_stores_the_same_weights_on_every_processor(trained, method):
    name = f"checkpoints/{method}-{SEED}"
    ours, theirs = (load_file(work / name / "final/model.safetensors") for work in trained)
    assert {tensor.dtype for tensor in ours.values()} == {np.dtype("float16")}
    assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
    ours, theirs = ([json.loads(line) for line in (work / name / "metrics.jsonl").open()] for work in trained)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, rel=1e-9)
