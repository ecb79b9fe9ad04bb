"""The mini world's sound: an action's excitation through the object's resonances, and the sources around it.

A verb excites (a blow, strokes of a knife, friction, running water) and a noun's material answers with decaying modes:
the two are convolved, as in modal synthesis of contact sounds. Both halves of the world sound so (see `epic`).
"""

import zlib
from collections.abc import Callable
from functools import cache, partial
from itertools import groupby

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike
from scipy.signal import butter, fftconvolve, sosfilt

from mc3.world.plan import VideoPlan
from mc3.world.vocabulary import NOUNS, Noun

RATE = 24000  # samples a second, as EPIC-Sounds' audio
Signal = np.ndarray  # float64 [samples] at RATE

# Material: lowest mode (Hz), spread of the modes, decay of the lowest mode (s), share of dull noise in the answer.
MATERIALS: dict[str, tuple[float, float, float, float]] = {
    "metal": (620.0, 2.6, 0.30, 0.03),
    "glass": (1500.0, 2.2, 0.16, 0.03),
    "ceramic": (950.0, 2.3, 0.09, 0.08),
    "stone": (480.0, 2.0, 0.025, 0.25),
    "wood": (230.0, 1.9, 0.035, 0.15),
    "plastic": (360.0, 1.7, 0.020, 0.30),
    "food": (170.0, 1.5, 0.012, 0.60),
    "paper": (2400.0, 1.4, 0.004, 0.80),
    "cloth": (700.0, 1.3, 0.003, 0.95),
}


def _time(seconds: float) -> Signal:
    return np.arange(int(seconds * RATE)) / RATE


@cache
def _bandpass(order: int, low: float, high: float) -> np.ndarray:
    return butter(order, [low, high], "bandpass", fs=RATE, output="sos")


def _unit(signal: Signal, least: float = 1e-9) -> Signal:
    """The signal with unit standard deviation; `least` keeps silence finite."""
    return signal / (signal.std() + least)


def mix(out: Signal, sound: Signal, start: int) -> None:
    """Add `sound` to `out` from sample `start`, as far as `out` goes."""
    out[start : start + len(sound)] += sound[: len(out) - start]


def _band(rng: Generator, seconds: float, low: float, high: float) -> Signal:
    """Noise between `low` and `high` Hz with unit RMS."""
    return _unit(sosfilt(_bandpass(2, low, high), rng.standard_normal(int(seconds * RATE))))


def _clicks(rng: Generator, seconds: float, times: ArrayLike, strengths: ArrayLike) -> Signal:
    """Short blows (about 1 ms of noise) at `times` (s)."""
    out = np.zeros(int(seconds * RATE) + 64)
    burst = np.exp(-np.arange(48) / 10.0)
    for time, strength in zip(np.asarray(times), np.asarray(strengths), strict=True):
        at = int(time * RATE)
        if 0 <= at < len(out) - 64:
            out[at : at + 48] += strength * burst * rng.standard_normal(48)
    return out[: int(seconds * RATE)]


def _strokes(seconds: float, tempo: float) -> np.ndarray:
    """Times of a movement's strokes, `tempo` a second and at least one; the picture's strokes are at the same times."""
    return np.arange(min(0.5 / tempo, seconds / 2), seconds - 0.05, 1.0 / tempo)


def _bubbles(rng: Generator, seconds: float, count: int, low: float, high: float) -> Signal:
    out = np.zeros(int(seconds * RATE) + RATE // 10)
    t = _time(0.05)
    for at in np.sort(rng.integers(0, int(seconds * RATE), count)):
        pitch = rng.uniform(low, high) * (1.0 + at / RATE / seconds * 0.6)
        out[at : at + len(t)] += rng.uniform(0.1, 0.5) * np.exp(-t * 90) * np.sin(2 * np.pi * pitch * t * (1 + 4 * t))
    return out[: int(seconds * RATE)]


# The verbs that excite an object, in an order that the generator's draws depend on.
EXCITATIONS = (
    "cut", "put", "hold", "wash", "take", "close", "wipe", "lift", "stir", "open", "touch", "pour", "rub", "drop",
    "hit", "shake", "turn",
)  # fmt: skip


def excitation(verb: str, rng: Generator, seconds: float, tempo: float) -> Signal:
    """What `verb` (of `EXCITATIONS`) does to an object: blows, friction or water; `tempo` is strokes a second."""
    t = _time(seconds)
    blows, band = partial(_clicks, rng, seconds), partial(_band, rng, seconds)

    def friction(tempo: float, low: float, high: float, sharpness: float) -> Signal:
        return 0.12 * np.abs(np.sin(np.pi * tempo * t)) ** sharpness * band(low, high)

    match verb:
        case "cut":
            times, squash = _strokes(seconds, tempo), np.zeros(len(t))
            for start in ((times - 0.05) * RATE).astype(int):
                squash[max(start, 0) : start + int(0.05 * RATE)] = 0.05
            return blows(times, rng.uniform(0.7, 1.0, len(times))) + squash * band(1500, 5000)
        case "put":
            slide = np.where(np.abs(t - 0.55 * seconds - 0.08) < 0.06, 0.06, 0.0)
            return blows(0.55 * seconds + np.array([0, 0.035]), [1.0, 0.5]) + slide * band(400, 3000)
        case "hold":
            return blows(np.sort(rng.uniform(0, seconds, 25)), rng.uniform(0.05, 0.3, 25))
        case "wash":
            swish = 0.6 + 0.4 * np.sin(2 * np.pi * tempo * 0.6 * t)
            return 0.10 * swish * band(900, 9000) + 0.3 * _bubbles(rng, seconds, 40, 700, 2400)
        case "take":
            scuff = 0.08 * np.exp(-(((t - 0.35 * seconds) / 0.06) ** 2)) * band(800, 6000)
            return scuff + blows([0.38 * seconds], [0.5])
        case "close":
            swoosh = np.clip(t / (0.6 * seconds), 0, 1) * (t < 0.6 * seconds)
            thud = blows(0.6 * seconds + np.array([0, 0.03, 0.09]), [1.4, 0.9, 0.5])
            return thud + 0.02 * swoosh**2 * band(150, 900)
        case "wipe":
            return friction(tempo * 0.7, 1200, 7000, 0.8)
        case "lift":
            scrape = np.where(t > 0.2 * seconds, np.exp(-(t - 0.2 * seconds) / 0.15), 0.0)
            return 0.1 * scrape * band(300, 2500)
        case "stir":
            times = _strokes(seconds, tempo * 0.8)
            times += rng.normal(0, 0.02, len(times))
            scrape = friction(tempo * 0.4, 600, 4000, 0.5)
            return 0.5 * scrape + blows(times, rng.uniform(0.2, 0.6, len(times)))
        case "open":
            creak = np.cumsum(1.0 / np.linspace(35, 90, 60)) + 0.2 * seconds
            creak = creak[creak < 0.8 * seconds]
            return blows(np.r_[0.15 * seconds, creak], np.r_[0.8, np.full(len(creak), 0.25)])
        case "touch":
            return blows(np.array([0.45, 0.62]) * seconds, [0.5, 0.25])
        case "pour":
            return 0.03 * band(500, 5000) + _bubbles(rng, seconds, 60, 350, 1100)
        case "rub":
            return friction(tempo * 1.6, 250, 1800, 1.5)
        case "drop":
            return blows(0.4 * seconds + np.cumsum(np.r_[0.0, 0.28 * 0.62 ** np.arange(8)]), 0.6 ** np.arange(9))
        case "hit":
            times = _strokes(seconds, tempo / 2)
            return blows(times, np.ones(len(times)))
        case "shake":
            times = np.sort(rng.uniform(0, seconds, 140))
            return blows(times, np.abs(np.sin(np.pi * 1.8 * tempo * times)) ** 2 * rng.uniform(0.1, 0.6, 140))
        case _:  # turn
            times = np.arange(0.1, seconds - 0.1, 1 / (5 * tempo))
            return blows(times, rng.uniform(0.3, 0.6, len(times)))


# Share of an excitation that is heard directly, not through the object (water, friction); 0.1 for the others.
WET = {"wash": 0.75, "pour": 0.7, "wipe": 0.4, "rub": 0.4}


def resonance(label: str, material: str, rng: Generator) -> Signal:
    """An object's answer to a blow, 0.4 s of unit energy: eight modes, fixed by its label and detuned a little."""
    lowest, spread, decay, dull = MATERIALS[material]
    kind = np.random.default_rng(zlib.crc32(label.encode()))
    lowest *= kind.uniform(0.75, 1.35)
    frequencies = lowest * np.cumprod(np.r_[1.0, 1 + (spread - 1) * kind.uniform(0.2, 0.8, 7)])
    frequencies *= rng.normal(1.0, 0.02, 8)
    strengths = kind.uniform(0.3, 1.0, 8) * np.linspace(1.0, 0.4, 8)
    t = _time(0.4)
    decays = decay * (frequencies / frequencies[0]) ** -0.5
    modes = strengths[:, None] * np.exp(-t / decays[:, None]) * np.sin(2 * np.pi * frequencies[:, None] * t)
    ring = modes[frequencies < 0.45 * RATE].sum(0)
    thump = np.exp(-t / 0.004) * rng.standard_normal(len(t))
    answer = (1 - dull) * ring / np.linalg.norm(ring) + dull * thump / np.linalg.norm(thump)
    return answer / np.linalg.norm(answer)


# Pass bands (Hz) of the first and the second formant of six vowels.
FORMANTS = [[(0.85 * f, 1.15 * f) for f in np.geomspace(*ends, 6)] for ends in ((300, 850), (900, 2300))]


def _speech(rng: Generator, seconds: float) -> Signal:
    """Babble: syllables of a pulse train through two wandering formants."""
    pitch = rng.uniform(100, 220)
    out, at = np.zeros(int(seconds * RATE)), 0
    while at < len(out):
        length = int(rng.uniform(0.09, 0.22) * RATE)
        if rng.random() < 0.8:
            t = np.arange(length) / RATE
            phase = np.cumsum(pitch * rng.uniform(0.85, 1.2) * (1 - 0.15 * t / t[-1]) / RATE)
            voice = 2 * (phase % 1) - 1 + 0.15 * rng.standard_normal(length)
            first, second = (sosfilt(_bandpass(1, *vowels[rng.integers(6)]), voice) for vowels in FORMANTS)
            mix(out, (first + second) * np.hanning(length), at)
        at += length + int(rng.uniform(0.0, 0.08) * RATE)
    return _unit(out)


def _music(rng: Generator, seconds: float) -> Signal:
    root, beat = rng.uniform(180, 300), rng.uniform(0.3, 0.5)
    out, note = np.zeros(int(seconds * RATE) + RATE), _time(0.9)
    pitches = root * 2 ** (np.array([0, 2, 4, 7, 9, 12]) / 12)
    tones = [sum(np.sin(2 * np.pi * f * h * note) / h**1.5 for h in (1, 2, 3)) * np.exp(-note * 3) for f in pitches]
    for at in np.arange(0, seconds, beat):
        start = int(at * RATE)
        for step in rng.choice(6, 2, replace=False):
            out[start : start + len(note)] += tones[step]
    return _unit(out[: int(seconds * RATE)], 0.0)


def _traffic(rng: Generator, seconds: float) -> Signal:
    swell = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.08, 0.2) * _time(seconds) + rng.uniform(0, 6))
    return _unit(_band(rng, seconds, 50, 500) * (0.3 + swell), 0.0)


def _wind(rng: Generator, seconds: float) -> Signal:
    gust = 1 + np.sin(2 * np.pi * 0.31 * _time(seconds) + rng.uniform(0, 6)) * np.sin(2 * np.pi * 0.17 * _time(seconds))
    return _unit(_band(rng, seconds, 150, 1400) * gust, 0.0)


def _tap(rng: Generator, seconds: float) -> Signal:
    return _unit(_band(rng, seconds, 1800, 10000), 0.0)


def _machine(rng: Generator, seconds: float) -> Signal:
    """A motor: harmonics of its speed, which swings once a second, and the noise of its load."""
    wobble = 2 * np.pi * (rng.integers(70, 140) * _time(1.0) + 0.2 * np.sin(2 * np.pi * _time(1.0)))
    hum = sum(np.sin(h * wobble + rng.uniform(0, 6)) / h**0.7 for h in (1, 2, 3, 5, 8, 13, 17))
    return _unit(np.resize(hum, int(seconds * RATE)) + _band(rng, seconds, 500, 4000), 0.0)


def _tv(rng: Generator, seconds: float) -> Signal:
    return _unit(_speech(rng, seconds) + 0.6 * _music(rng, seconds), 0.0)


def contact(rng: Generator, verb: str, noun: Noun, seconds: float, tempo: float) -> Signal:
    """The sound of `verb` (of `EXCITATIONS`) done to an object: `seconds` + 0.3 s, unit RMS."""
    blow = np.r_[excitation(verb, rng, seconds, tempo), np.zeros(int(0.3 * RATE))]
    ring = fftconvolve(blow, resonance(noun.label, noun.material, rng))[: len(blow)]
    direct = WET.get(verb, 0.1)
    return _unit((1 - direct) * ring / (ring.std() + 1e-9) + direct * blow / (blow.std() + 1e-9))


def _activity(rng: Generator, seconds: float) -> Signal:
    """Another person at work: random actions on random objects, one after the other."""
    out, at = np.zeros(int(seconds * RATE)), rng.uniform(0.0, 0.5)
    objects = [noun for noun in NOUNS if noun.material]
    while at < seconds:
        verb, noun = EXCITATIONS[rng.integers(len(EXCITATIONS))], objects[rng.integers(len(objects))]
        length = rng.uniform(0.4, 1.5)
        mix(out, contact(rng, verb, noun, length, rng.uniform(2.0, 3.5)), int(at * RATE))
        at += length + rng.uniform(0.0, 0.8)
    return _unit(out)


# A source's name -> (rng, seconds) -> its sound, unit RMS.
SOURCES: dict[str, Callable[[Generator, float], Signal]] = {
    "tap": _tap, "machine": _machine, "tv": _tv, "traffic": _traffic, "speech": _speech, "music": _music,
    "wind": _wind, "activity": _activity,
}  # fmt: skip


def room_tone(rng: Generator, seconds: float, level: float) -> Signal:
    """Noise that falls with frequency, at `level` dB of full scale; it repeats every 10 s."""
    spectrum = np.fft.rfft(rng.standard_normal(10 * RATE))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)) / 10, 40.0))
    out = np.fft.irfft(spectrum)
    return np.resize(10 ** (level / 20) * out / out.std(), int(seconds * RATE))


def soundtrack(plan: VideoPlan, seconds: float, every: float) -> np.ndarray:
    """A video's sound, float32 [seconds * RATE] in [-1, 1]. Each action fills `every` seconds, for which sources play.

    Levels of room tone and sources (dB of full scale, drawn once a video) are choices: with the actions' -34 to -18 dB
    they make signal-to-noise ratios of about -4 to +26 dB.
    """
    rng = np.random.default_rng([*plan.entropy, 1])
    out = room_tone(rng, seconds, rng.uniform(-60, -44))
    fade = np.linspace(0, 1, RATE // 20)
    for kind, softest in (("on_screen", -42), ("off_screen", -44)):
        level, first = rng.uniform(softest, -30), 0
        for name, run in groupby(getattr(action, kind) for action in plan.actions):
            slots = len(list(run))
            if name:
                sound = 10 ** (level / 20) * SOURCES[name](rng, slots * every)
                sound[: len(fade)] *= fade
                sound[-len(fade) :] *= fade[::-1]
                mix(out, sound, int(first * every * RATE))
            first += slots
    for action in plan.actions:
        if action.verb.name == "talk":
            sound = _speech(rng, action.duration)
        else:
            sound = contact(rng, action.verb.name, action.noun, action.duration, action.tempo)
        mix(out, 10 ** (action.level / 20) * sound * action.sounding, int(action.start * RATE))
    return np.tanh(out).astype(np.float32)
