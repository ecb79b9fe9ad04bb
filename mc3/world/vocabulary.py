"""The mini world's vocabulary: verbs, nouns and scenes, and what is needed to draw and sound them.

Ten verbs and their rates are Table 1. The other eight and the order, a long tail, are choices that put the expected
share of positives (54.2 %) near the paper's 53.6 %.
"""

from dataclasses import dataclass

Colour = tuple[int, int, int]  # red, green, blue, each 0..255


@dataclass(frozen=True)
class Group:
    """A group of words for one thing, as Ego4D's taxonomies have them; verbs are infinitives."""

    label: str
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """The first word of the label."""
        return self.label.split("_")[0]


@dataclass(frozen=True)
class Verb(Group):
    """A verb: the share of its clips that most annotators call sounding, and the kinds of noun that it takes."""

    rate: float
    kinds: str


@dataclass(frozen=True)
class Noun(Group):
    """A noun: its kinds (see `VERBS`), and its material, outline and colour if it can be drawn."""

    kinds: str
    material: str = ""
    shape: str = ""
    colour: Colour = (0, 0, 0)


@dataclass(frozen=True)
class Scene:
    """A place: colours of wall and worktop, sources that it may have in view, and names of nouns at home there."""

    name: str
    wall: Colour
    worktop: Colour
    sources: tuple[str, ...]
    nouns: tuple[str, ...]


TALK = Verb("talk_(converse)", ("talk to", "converse with"), 0.0, "p")
# Kinds of noun: d dish, f food, k may be cut, c cloth or paper, o has a lid or door, v vessel, s surface, h hard,
# m movable, p person.
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
    Noun("man_(person)", ("man", "person"), "p"),
    Noun("woman_(lady)", ("woman", "lady"), "p"),
)
# In the taxonomy because narrations mention it ("with her right hand"); no action is done to it.
HAND = Noun("hand_(finger,_hand)", ("hand", "hands"), "")

SCENES = (
    Scene("kitchen", (206, 200, 178), (120, 116, 112), ("tap", "machine", "tap"),
          ("plate", "knife", "cup", "bowl", "carrot", "onion", "pan", "fridge", "potato", "lid", "dough")),
    Scene("workshop", (120, 124, 132), (148, 116, 78), ("machine",),
          ("wood", "nail", "pipe", "table", "brush", "box", "can")),
    Scene("garden", (120, 170, 210), (92, 116, 58), ("tap", "machine"), ("leaf", "stone", "bucket", "bag", "pipe")),
    Scene("living_room", (196, 160, 140), (134, 90, 62), ("tv",),
          ("cloth", "cup", "book", "phone", "shirt", "drinking")),
    Scene("office", (190, 196, 210), (170, 164, 152), ("tv", "machine"),
          ("paper", "book", "phone", "drawer", "door", "bottle")),
    Scene("bathroom", (150, 196, 200), (214, 214, 210), ("tap",),
          ("cloth", "brush", "tile", "jar", "bucket", "door")),
)  # fmt: skip
