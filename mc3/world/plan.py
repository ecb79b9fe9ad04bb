"""The mini world's plan: what happens, is seen, is heard and is said in every video, before anything is rendered.

The plan is cheap and pure: one seed gives one plan, whatever the number of processes, and adding
videos leaves the others as they were. Rates come from the paper where it has them (Table 1, Sec. 5:
17,693 of 33,000 labelled clips are positive); every other rate is a choice and is named as one, here or in
`mc3.config.Rates`, which `mc3 study` varies. Agreement follows the paper's Figure 2.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from mc3.config import Rates, World

ANNOTATOR_ERROR = 0.1
"""A choice: each of three annotators errs independently with this probability; the majority errs in 2.8 %."""

STICKY = 0.6
"""A choice: probability that a source keeps its state from one action to the next rather than draw it anew."""

OTHERS = 0.04
"""A choice: share of narrations about another person ("#O ...")."""

SECOND_PASS = {"only": 0.3, "both": 0.08}
"""A choice: shares of the actions narrated by the second annotator alone, and by both."""

BAD_NARRATION = 0.05
"""A choice: probability, a video and kind, of a narration without text and of one past the end."""

UNSURE = 0.01
"""A choice: share of narrations whose object the narrator did not know ("#unsure")."""


@dataclass(frozen=True)
class Verb:
    """A verb group: its words (infinitives), its share of labelled positives, and what it acts on.

    `rate` is the share of its clips that the majority of annotators calls sounding; `kinds` are the
    kinds of noun it takes.
    """

    label: str
    words: tuple[str, ...]
    rate: float
    kinds: str


@dataclass(frozen=True)
class Noun:
    """A noun group: words, kinds (see `VERBS`), material, outline and colour (red, green, blue)."""

    label: str
    words: tuple[str, ...]
    kinds: str
    material: str
    shape: str
    colour: tuple[int, int, int]


TALK = Verb("talk_(converse)", ("talk to", "converse with"), 0.0, "p")
# Ten verbs and their rates are Table 1; the other eight, and the order (a long tail), are choices that put the
# expected share of positives (54.2 %) near the paper's 53.6 %. Kinds: d dish, f food, k may be cut, c cloth or paper,
# o has a lid or door, v vessel, s surface, h hard, m small enough to move, p person.
VERBS = (
    Verb("put_(place,_set)", ("put", "place", "set"), 0.60, "m"),
    Verb("cut_(chop,_slice)", ("cut", "chop", "slice"), 0.77, "fk"),
    Verb("hold_(grip,_support)", ("hold", "grip", "support"), 0.09, "m"),
    Verb("wash_(rinse,_wash)", ("wash", "rinse"), 0.90, "dfc"),
    Verb("take_(pick,_grab)", ("take", "pick", "grab"), 0.42, "m"),
    Verb("close_(shut)", ("close", "shut"), 0.82, "o"),
    Verb("lift_(raise)", ("lift", "raise"), 0.19, "m"),
    Verb("wipe_(clean,_wipe)", ("wipe", "clean"), 0.53, "sd"),
    Verb("touch_(tap)", ("touch", "tap"), 0.27, "dfcosh"),
    Verb("stir_(mix)", ("stir", "mix"), 0.64, "v"),
    Verb("open", ("open",), 0.62, "o"),
    Verb("pour_(empty)", ("pour", "empty"), 0.74, "v"),
    Verb("rub_(massage)", ("rub", "massage"), 0.39, "cfs"),
    Verb("drop", ("drop",), 0.64, "m"),
    Verb("hit_(hammer,_knock)", ("hit", "hammer", "knock"), 0.92, "h"),
    Verb("shake", ("shake",), 0.66, "cm"),
    Verb("turn_(rotate)", ("turn", "rotate"), 0.33, "m"),
    TALK,
)

NOUNS = (
    Noun("plate_(dish)", ("plate", "dish"), "dm", "ceramic", "plate", (232, 232, 226)),
    Noun("knife", ("knife",), "dm", "metal", "knife", (176, 184, 194)),
    Noun("cloth_(rag,_towel)", ("cloth", "rag", "towel"), "cm", "cloth", "sheet", (86, 140, 200)),
    Noun("cup_(mug)", ("cup", "mug"), "dvm", "ceramic", "cup", (206, 72, 64)),
    Noun("bowl", ("bowl",), "dvm", "ceramic", "bowl", (240, 206, 120)),
    Noun("bottle", ("bottle",), "dovm", "plastic", "bottle", (60, 150, 90)),
    Noun("carrot", ("carrot",), "fm", "food", "root", (240, 130, 30)),
    Noun("pan_(pot)", ("pan", "pot"), "dvm", "metal", "pan", (60, 60, 66)),
    Noun("door", ("door",), "os", "wood", "door", (150, 100, 60)),
    Noun("paper", ("paper",), "cmk", "paper", "sheet", (244, 244, 236)),
    Noun("phone_(cellphone)", ("phone", "cellphone"), "sm", "plastic", "slab", (34, 36, 52)),
    Noun("wood_(plank,_timber)", ("wood", "plank", "timber"), "hsk", "wood", "plank", (196, 148, 92)),
    Noun("onion", ("onion",), "fm", "food", "ball", (176, 70, 120)),
    Noun("spoon", ("spoon",), "dm", "metal", "spoon", (190, 196, 204)),
    Noun("box_(carton)", ("box", "carton"), "omk", "paper", "box", (186, 144, 96)),
    Noun("drawer", ("drawer",), "os", "wood", "drawer", (128, 84, 54)),
    Noun("nail", ("nail",), "hm", "metal", "nail", (128, 132, 140)),
    Noun("jar", ("jar",), "ovm", "glass", "jar", (150, 200, 214)),
    Noun("bucket", ("bucket",), "vm", "plastic", "bucket", (40, 90, 190)),
    Noun("table_(counter)", ("table", "counter"), "sh", "wood", "plank", (110, 72, 48)),
    Noun("dough", ("dough",), "fm", "food", "ball", (236, 220, 180)),
    Noun("brush", ("brush",), "dm", "plastic", "spoon", (220, 90, 160)),
    Noun("book", ("book",), "ocm", "paper", "box", (150, 40, 50)),
    Noun("leaf_(leaves)", ("leaf", "leaves"), "fm", "paper", "leaf", (70, 150, 50)),
    Noun("stone_(rock)", ("stone", "rock"), "hm", "stone", "stone", (136, 132, 126)),
    Noun("shirt", ("shirt",), "cm", "cloth", "sheet", (170, 60, 150)),
    Noun("bag", ("bag",), "ocm", "plastic", "box", (230, 190, 40)),
    Noun("drinking_glass", ("glass", "drinking glass"), "dvm", "glass", "cup", (180, 226, 236)),
    Noun("can_(tin)", ("can", "tin"), "ohvm", "metal", "jar", (200, 60, 60)),
    Noun("lid", ("lid",), "dm", "metal", "plate", (150, 156, 166)),
    Noun("potato", ("potato",), "fm", "food", "stone", (190, 150, 90)),
    Noun("fridge", ("fridge",), "os", "metal", "door", (214, 220, 224)),
    Noun("tile", ("tile",), "sh", "stone", "slab", (190, 110, 90)),
    Noun("pipe", ("pipe",), "hm", "metal", "knife", (120, 100, 80)),
    Noun("man_(person)", ("man", "person"), "p", "", "", (0, 0, 0)),
    Noun("woman_(lady)", ("woman", "lady"), "p", "", "", (0, 0, 0)),
)


HAND = Noun("hand_(finger,_hand)", ("hand", "hands"), "", "", "", (0, 0, 0))
"""Narrations mention it ("with her right hand"), so the taxonomy has it; no action is about it."""


@dataclass(frozen=True)
class Scene:
    """A place: nouns found there more often, the visible source it may have, wall and worktop colours."""

    name: str
    nouns: tuple[str, ...]
    sources: tuple[str, ...]
    wall: tuple[int, int, int]
    worktop: tuple[int, int, int]


SCENES = (
    Scene(
        "kitchen",
        ("plate", "knife", "cup", "bowl", "carrot", "onion", "pan", "fridge", "potato", "lid", "dough"),
        ("tap", "machine", "tap"),
        (206, 200, 178),
        (120, 116, 112),
    ),
    Scene(
        "workshop",
        ("wood", "nail", "pipe", "table", "brush", "box", "can"),
        ("machine",),
        (120, 124, 132),
        (148, 116, 78),
    ),
    Scene("garden", ("leaf", "stone", "bucket", "bag", "pipe"), ("tap", "machine"), (120, 170, 210), (92, 116, 58)),
    Scene(
        "living_room", ("cloth", "cup", "book", "phone", "shirt", "drinking"), ("tv",), (196, 160, 140), (134, 90, 62)
    ),
    Scene(
        "office",
        ("paper", "book", "phone", "drawer", "door", "bottle"),
        ("tv", "machine"),
        (190, 196, 210),
        (170, 164, 152),
    ),
    Scene("bathroom", ("cloth", "brush", "tile", "jar", "bucket", "door"), ("tap",), (150, 196, 200), (214, 214, 210)),
)
SCENE_LIFT = 5.0
"""A choice: how many times likelier a scene's own nouns are there."""

OFF_SCREEN_SOURCES = ("traffic", "speech", "music", "wind", "activity", "activity")
"""Activity, somebody else at work, comes twice as often: a burst of energy alone does not tell a sounding action
(Sec. 5)."""
REGIONS = ("I", "II", "III", "IV", "none")


def true_rate(labelled: float) -> float:
    """The share of sounding clips that majorities of erring annotators report as `labelled` (Table 1 counts labels)."""
    wrong = 3 * ANNOTATOR_ERROR**2 * (1 - ANNOTATOR_ERROR) + ANNOTATOR_ERROR**3
    return float(np.clip((labelled - wrong) / (1 - 2 * wrong), 0.0, 1.0))


def region(sounding: bool, visible: bool, on_screen: str) -> str:
    """Figure 2's region of a narrated clip: which of audio, vision and language agree about the same thing.

    I all three (the narrated action is heard and seen); IV audio and language (heard, not seen);
    II audio and vision (the action is silent, a visible source sounds); III vision and language
    (seen, silent); "none" when nothing agrees.
    """
    if sounding:
        return "I" if visible else "IV"
    if on_screen:
        return "II"
    return "III" if visible else "none"


@dataclass(frozen=True)
class Action:
    """One narrated action. Times in seconds; `tempo` strokes a second; `level` RMS in dB of full scale.

    `words` are the verb's and the noun's as narrated by each pass. `on_screen` and `off_screen` name the
    source sounding meanwhile, or are "". `actor` is "C" (camera wearer) or "O" (another person).
    """

    start: float
    duration: float
    tempo: float
    level: float
    verb: Verb
    noun: Noun
    actor: str
    visible: bool
    sounding: bool
    on_screen: str
    off_screen: str

    @property
    def region(self) -> str:
        """Figure 2's region."""
        return region(self.sounding, self.visible, self.on_screen)


@dataclass(frozen=True)
class Narration:
    """A line of `narration.json`: `action` indexes the video's actions, or is None for a bad line."""

    annotation: int
    time: float
    text: str
    action: int | None
    votes: tuple[int, int, int] | None


@dataclass(frozen=True)
class VideoPlan:
    """All that a video is made from. `entropy` seeds its rendering; `has_audio` says if it has an audio stream."""

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
    """Probability [nouns] that `verb` in `scene` acts on each noun: the long tail, what fits, what is at home there."""
    fits = np.array([bool(set(noun.kinds) & set(verb.kinds)) for noun in NOUNS])
    at_home = np.array([noun.label.split("_")[0] in scene.nouns for noun in NOUNS])
    weights = NOUN_SHARES * fits * np.where(at_home, SCENE_LIFT, 1.0)
    return weights / weights.sum()


def _noun(rng: np.random.Generator, verb: Verb, scene: Scene) -> Noun:
    return NOUNS[rng.choice(len(NOUNS), p=noun_shares(verb, scene))]


def _sticky(rng: np.random.Generator, before: str | None, choices: tuple[str, ...], share: float) -> str:
    if before is not None and rng.random() < STICKY:
        return before
    return choices[rng.integers(len(choices))] if rng.random() < share else ""


def _action(
    rng: np.random.Generator,
    slot_start: float,
    scene: Scene,
    has_audio: bool,
    on_screen: str,
    off_screen: str,
    rates: Rates,
) -> Action:
    other = rng.random() < OTHERS
    verb = TALK if other else VERBS[rng.choice(len(VERBS), p=VERB_SHARES)]
    sounds = rng.random() < (0.7 if other else rates.sounding * true_rate(verb.rate))
    seen = True
    if not other and not sounds:
        seen = verb is not TALK and rng.random() >= rates.unseen
        sounds = not seen and rng.random() < rates.heard_unseen
    return Action(
        start=slot_start + 0.5 + 0.3 * rng.random(),
        duration=rng.uniform(1.1, 1.5),
        tempo=rng.uniform(2.0, 3.5),
        level=rng.uniform(-34.0, -18.0) + rates.signal_db,
        verb=verb,
        noun=_noun(rng, verb, scene),
        actor="O" if other else "C",
        visible=bool(seen),
        sounding=bool(sounds and has_audio),
        on_screen=on_screen,
        off_screen=off_screen,
    )


def third_person(verb: str) -> str:
    """The form a narration has: "wash" -> "washes", "talk to" -> "talks to"."""
    first, *rest = verb.split()
    if first[-1] == "y" and first[-2] not in "aeiou":
        first = first[:-1] + "ies"
    else:
        first += "es" if first.endswith(("sh", "ch", "x", "s")) else "s"
    return " ".join([first, *rest])


def _text(rng: np.random.Generator, action: Action) -> str:
    noun = action.noun.words[rng.integers(len(action.noun.words))]
    if action.actor == "O":
        return f"#O A {noun} talks"
    verb = third_person(action.verb.words[rng.integers(len(action.verb.words))])
    if rng.random() < UNSURE:
        noun = "#unsure"
    article = ("the", "a", "the")[rng.integers(3)]
    if article == "a" and noun[0] in "aeiou":
        article = "an"
    tail = ("", "", "", "", " with both hands", " with her right hand", " with his left hand", " again")[
        rng.integers(8)
    ]
    return f"#C C {verb} {article} {noun}{tail}"


def _misnarrated(rng: np.random.Generator, action: Action, scene: Scene) -> Action:
    """What a wrong narration says was done: another draw of verb and object in the same place."""
    verb = VERBS[rng.choice(len(VERBS), p=VERB_SHARES)]
    return replace(action, verb=verb, noun=_noun(rng, verb, scene), actor="C")


def _votes(rng: np.random.Generator, positive: bool) -> tuple[int, int, int]:
    a, b, c = (int(positive != (rng.random() < ANNOTATOR_ERROR)) for _ in range(3))
    return a, b, c


def video_plan(world: World, split: str, number: int) -> VideoPlan:
    """Plan video `number` of `split`; the last `world.silent_videos` of the training videos have no audio."""
    splits = ("train", "validation", "test")
    entropy = (world.seed, splits.index(split), number)
    rng = np.random.default_rng(np.random.SeedSequence(entropy))
    wrong = np.random.default_rng(np.random.SeedSequence([*entropy, 3]))  # so that the rest stays as it is
    rates = world.rates
    uid = str(uuid.UUID(bytes=rng.bytes(16), version=4))
    has_audio = split != "train" or number < world.videos["train"] - world.silent_videos
    scene = SCENES[rng.integers(len(SCENES))]
    source = scene.sources[rng.integers(len(scene.sources))]

    actions: list[Action] = []
    on_screen: str | None = None
    off_screen: str | None = None
    for slot in range(int(world.seconds / world.clip_every_sec)):
        on_screen = _sticky(rng, on_screen, (source,), rates.on_screen)
        off_screen = _sticky(rng, off_screen, OFF_SCREEN_SOURCES, rates.off_screen)
        heard = (on_screen, off_screen) if has_audio else ("", "")
        actions.append(_action(rng, slot * world.clip_every_sec, scene, has_audio, *heard, rates))

    narrations: list[Narration] = []
    for index, action in enumerate(actions):
        draw = rng.random()
        only, both = SECOND_PASS["only"], SECOND_PASS["both"]
        passes = (2,) if draw < only else (1, 2) if draw < only + both else (1,)
        time = action.start + 0.3 * rng.random()
        for pass_number in passes:
            votes = None
            if split != "train" and action.actor == "C":
                votes = _votes(rng, action.region == "I")
            text = _text(rng, action)
            if split == "train" and wrong.random() < rates.misnarrated:
                text = _text(wrong, _misnarrated(wrong, action, scene))
            narrations.append(Narration(pass_number, round(time, 4), text, index, votes))
            time += rng.uniform(0.05, 0.2)
    end = round(world.seconds + rng.uniform(1.0, 5.0), 4)
    bad = (("#C C holds the cup", end), ("#C ", round(rng.uniform(1.0, world.seconds), 4)))
    narrations += [Narration(1, time, text, None, None) for text, time in bad if rng.random() < BAD_NARRATION]
    narrations.sort(key=lambda narration: (narration.annotation, narration.time))
    return VideoPlan(uid, split, scene, source, has_audio, tuple(actions), tuple(narrations), entropy)


def plan(world: World) -> list[VideoPlan]:
    """Plan the whole Ego4D half, in the order of splits and numbers."""
    return [video_plan(world, split, n) for split, count in world.videos.items() for n in range(count)]
