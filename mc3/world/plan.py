"""The mini world's plan: what happens, is visible, sounds and is narrated in each video, before any rendering.

A seed fixes it, whatever the number of processes, and more videos leave the others as they were. Rates are the paper's
where it has them (Table 1; Sec. 5: 17,693 of 33,000 labelled clips are positive). All others are choices: the constants
here, and `mc3.config.Rates`, which the study varies.
"""

import uuid
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.random import Generator, default_rng

from mc3.config import Rates, World
from mc3.world.vocabulary import NOUNS, SCENES, TALK, VERBS, Noun, Scene, Verb

ANNOTATOR_ERROR = 0.1  # each of three annotators errs independently; their majority errs in 2.8 % of the clips
STICKY = 0.6  # probability that a source stays as it is from one action to the next
OTHERS = 0.04  # share of narrations about another person ("#O ...")
SECOND_ONLY, BOTH = 0.3, 0.08  # shares of actions that the second annotator narrates alone, and also
BAD_NARRATION = 0.05  # probability, for each video, of a narration without text, and of one past the end
UNSURE = 0.01  # share of narrations whose object the narrator did not know ("#unsure")
SCENE_LIFT = 5.0  # how many times likelier a scene's own nouns are there
TAILS = ("", "", "", "", " with both hands", " with her right hand", " with his left hand", " again")  # of narrations

# Activity, another person at work, counts twice: a burst of energy must not betray a sounding action (Sec. 5).
OFF_SCREEN_SOURCES = ("traffic", "speech", "music", "wind", "activity", "activity")


def true_rate(labelled: float) -> float:
    """The share of sounding clips of which erring annotators' majorities report `labelled` (Table 1 counts labels)."""
    wrong = 3 * ANNOTATOR_ERROR**2 * (1 - ANNOTATOR_ERROR) + ANNOTATOR_ERROR**3
    return float(np.clip((labelled - wrong) / (1 - 2 * wrong), 0.0, 1.0))


@dataclass(frozen=True)
class Action:
    """A narrated action; times are in seconds."""

    start: float
    duration: float
    tempo: float  # strokes a second
    level: float  # RMS in dB of full scale
    verb: Verb
    noun: Noun
    actor: str  # "C", the camera wearer, or "O", another person
    visible: bool
    sounding: bool
    on_screen: str  # the source that sounds meanwhile, or ""
    off_screen: str  # likewise

    @property
    def region(self) -> str:
        """Figure 2's region: which of audio, vision and language agree.

        I all three: the action sounds and is visible; II audio and vision: the action is silent, a visible source
        sounds; III vision and language: visible but silent; IV audio and language: it sounds unseen; else "none".
        """
        if self.sounding:
            return "I" if self.visible else "IV"
        if self.on_screen:
            return "II"
        return "III" if self.visible else "none"


@dataclass(frozen=True)
class Narration:
    """A line of `narration.json`: `action` indexes the video's actions, or is None for a bad line."""

    annotation: int
    time: float
    text: str
    action: int | None
    votes: tuple[int, ...] | None  # of three annotators


@dataclass(frozen=True)
class VideoPlan:
    """Everything that a video is rendered from. `entropy` seeds the rendering; `has_audio`: it has an audio stream."""

    uid: str
    split: str
    scene: Scene
    source: str
    has_audio: bool
    actions: tuple[Action, ...]
    narrations: tuple[Narration, ...]
    entropy: tuple[int, ...]


def _zipf(count: int, exponent: float, shift: float = 0.0) -> np.ndarray:
    weights = (np.arange(count) + 1.0 + shift) ** -exponent
    return weights / weights.sum()


VERB_SHARES = _zipf(len(VERBS), 0.8, shift=3.0)
NOUN_SHARES = _zipf(len(NOUNS), 1.0)


@cache
def noun_shares(verb: Verb, scene: Scene) -> np.ndarray:
    """Probability [nouns] that `verb` acts on each noun in `scene`: a long tail of those that fit."""
    fits = np.array([bool(set(noun.kinds) & set(verb.kinds)) for noun in NOUNS])
    at_home = np.array([noun.name in scene.nouns for noun in NOUNS])
    weights = NOUN_SHARES * fits * np.where(at_home, SCENE_LIFT, 1.0)
    return weights / weights.sum()


def _verb(rng: Generator) -> Verb:
    return VERBS[rng.choice(len(VERBS), p=VERB_SHARES)]


def _noun(rng: Generator, verb: Verb, scene: Scene) -> Noun:
    return NOUNS[rng.choice(len(NOUNS), p=noun_shares(verb, scene))]


def _next_source(rng: Generator, current: str | None, choices: tuple[str, ...], share: float) -> str:
    if current is not None and rng.random() < STICKY:
        return current
    return choices[rng.integers(len(choices))] if rng.random() < share else ""


def _action(
    rng: Generator, start: float, scene: Scene, has_audio: bool, sources: tuple[str, str], rates: Rates
) -> Action:
    other = rng.random() < OTHERS
    verb = TALK if other else _verb(rng)
    sounding = rng.random() < (0.7 if other else rates.sounding * true_rate(verb.rate))
    visible = True
    if not other and not sounding:
        visible = verb is not TALK and rng.random() >= rates.unseen
        sounding = not visible and rng.random() < rates.heard_unseen
    return Action(
        start=start + 0.5 + 0.3 * rng.random(), duration=rng.uniform(1.1, 1.5), tempo=rng.uniform(2.0, 3.5),
        level=rng.uniform(-34.0, -18.0) + rates.signal_db, verb=verb, noun=_noun(rng, verb, scene),
        actor="O" if other else "C", visible=bool(visible), sounding=bool(sounding and has_audio),
        on_screen=sources[0], off_screen=sources[1],
    )  # fmt: skip


def third_person(verb: str) -> str:
    """The form of a verb in a narration: "wash" -> "washes", "talk to" -> "talks to"."""
    first, space, rest = verb.partition(" ")
    if first[-1] == "y" and first[-2] not in "aeiou":
        return f"{first[:-1]}ies{space}{rest}"
    return f"{first}{'es' if first.endswith(('sh', 'ch', 'x', 's')) else 's'}{space}{rest}"


def _text(rng: Generator, action: Action) -> str:
    noun = action.noun.words[rng.integers(len(action.noun.words))]
    if action.actor == "O":
        return f"#O A {noun} talks"
    verb = third_person(action.verb.words[rng.integers(len(action.verb.words))])
    if rng.random() < UNSURE:
        noun = "#unsure"
    article = ("the", "an" if noun[0] in "aeiou" else "a", "the")[rng.integers(3)]
    return f"#C C {verb} {article} {noun}{TAILS[rng.integers(8)]}"


def plan_video(world: World, split: str, number: int) -> VideoPlan:
    """Plan video `number` of `split`; the last `world.silent_videos` of the training videos have no audio."""
    entropy = (world.seed, ("train", "validation", "test").index(split), number)
    rng = default_rng(entropy)
    wrong = default_rng([*entropy, 3])  # its own, so that the rest does not change
    uid = str(uuid.UUID(bytes=rng.bytes(16), version=4))
    has_audio = split != "train" or number < world.videos["train"] - world.silent_videos
    scene = SCENES[rng.integers(len(SCENES))]
    source = scene.sources[rng.integers(len(scene.sources))]

    actions: list[Action] = []
    on_screen = off_screen = None
    for slot in range(int(world.seconds / world.clip_every_sec)):
        on_screen = _next_source(rng, on_screen, (source,), world.rates.on_screen)
        off_screen = _next_source(rng, off_screen, OFF_SCREEN_SOURCES, world.rates.off_screen)
        sources = (on_screen, off_screen) if has_audio else ("", "")
        actions.append(_action(rng, slot * world.clip_every_sec, scene, has_audio, sources, world.rates))

    narrations: list[Narration] = []
    for index, action in enumerate(actions):
        draw = rng.random()
        passes = (2,) if draw < SECOND_ONLY else (1, 2) if draw < SECOND_ONLY + BOTH else (1,)
        time = action.start + 0.3 * rng.random()
        for annotation in passes:
            votes = None
            if split != "train" and action.actor == "C":
                votes = tuple(int((action.region == "I") != (rng.random() < ANNOTATOR_ERROR)) for _ in range(3))
            text = _text(rng, action)
            if split == "train" and wrong.random() < world.rates.misnarrated:  # another verb and object
                verb = _verb(wrong)
                text = _text(wrong, replace(action, verb=verb, noun=_noun(wrong, verb, scene), actor="C"))
            narrations.append(Narration(annotation, round(time, 4), text, index, votes))
            time += rng.uniform(0.05, 0.2)
    end = round(world.seconds + rng.uniform(1.0, 5.0), 4)
    bad = (("#C C holds the cup", end), ("#C ", round(rng.uniform(1.0, world.seconds), 4)))
    narrations += [Narration(1, time, text, None, None) for text, time in bad if rng.random() < BAD_NARRATION]
    narrations.sort(key=lambda narration: (narration.annotation, narration.time))
    return VideoPlan(uid, split, scene, source, has_audio, tuple(actions), tuple(narrations), entropy)


def plan_videos(world: World) -> list[VideoPlan]:
    """Plan the whole Ego4D half, in the order of splits and numbers."""
    return [plan_video(world, split, n) for split, count in world.videos.items() for n in range(count)]
