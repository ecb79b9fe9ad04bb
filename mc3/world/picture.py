"""The mini world's pictures: a worktop as the camera wearer sees it, with hands that carry out the narrated action.

Drawn with Pillow at twice the size and averaged down. Coordinates are in frame widths (0..1, y downward). A noun gives
outline and colour, a verb the motion, whose strokes coincide with the sound's (`sound`).
"""

import math

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw
from scipy.signal import lfilter

from mc3.config import World
from mc3.world.motion import pose
from mc3.world.plan import Action, VideoPlan
from mc3.world.vocabulary import NOUNS, Colour

Point = tuple[float, float]

MARGIN = 0.12  # how far (frame widths) the camera may stray from the middle of the surroundings
SKINS = ((236, 188, 152), (198, 144, 104), (150, 100, 70), (104, 68, 48))


def _ellipse(x: float, y: float, rx: float, ry: float, start: float = 0.0, stop: float = 1.0) -> list[Point]:
    angles = [2 * math.pi * (start + (stop - start) * k / 16) for k in range(17)]
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


def _box(x0: float, y0: float, x1: float, y1: float) -> list[Point]:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


# The polygons of each shape, in units of the object's radius, with their brightness.
SHAPES: dict[str, list[tuple[list[Point], float]]] = {
    "plate": [(_ellipse(0, 0, 1, 0.85), 1.0), (_ellipse(0, 0, 0.62, 0.5), 0.82)],
    "bowl": [(_ellipse(0, -0.1, 1, 0.95, 0, 0.5), 0.85), (_ellipse(0, -0.1, 1, 0.38), 1.0),
             (_ellipse(0, -0.1, 0.8, 0.26), 0.5)],
    "cup": [(_ellipse(0.75, 0, 0.4, 0.42), 0.7), (_box(-0.62, -0.75, 0.62, 0.8), 1.0),
            (_ellipse(0, -0.75, 0.62, 0.22), 0.55)],
    "pan": [(_box(0.7, -0.16, 2.0, 0.16), 0.6), (_ellipse(0, 0, 0.95, 0.85), 1.0), (_ellipse(0, 0, 0.72, 0.62), 1.5)],
    "bottle": [(_box(-0.45, -0.4, 0.45, 1.1), 1.0), (_box(-0.2, -0.9, 0.2, -0.4), 0.85),
               (_box(-0.25, -1.15, 0.25, -0.85), 1.6)],
    "jar": [(_box(-0.6, -0.6, 0.6, 0.9), 1.0), (_box(-0.66, -0.95, 0.66, -0.6), 0.55),
            (_box(-0.4, -0.3, -0.2, 0.6), 1.3)],
    "bucket": [([(-0.95, -0.7), (0.95, -0.7), (0.65, 1.0), (-0.65, 1.0)], 0.9), (_ellipse(0, -0.7, 0.95, 0.3), 0.5)],
    "knife": [(_box(-1.2, -0.16, -0.3, 0.16), 0.35), ([(-0.3, -0.2), (1.1, -0.05), (1.3, 0.2), (-0.3, 0.2)], 1.0)],
    "spoon": [(_box(-1.3, -0.1, 0.4, 0.1), 0.85), (_ellipse(0.75, 0, 0.48, 0.32), 1.0)],
    "nail": [(_box(-0.08, -0.8, 0.08, 0.9), 1.0), (_box(-0.35, -0.95, 0.35, -0.75), 0.75)],
    "sheet": [([(-1.1, -0.8), (-0.2, -0.95), (1.0, -0.75), (1.15, 0.1), (0.95, 0.85), (-0.3, 0.75), (-1.0, 0.9)], 1.0),
              ([(-0.7, -0.3), (0.7, -0.2), (0.7, -0.08), (-0.7, -0.18)], 0.75)],
    "root": [([(-0.9, -0.38), (-0.6, -0.45), (1.2, -0.06), (1.2, 0.06), (-0.6, 0.45), (-0.9, 0.38)], 1.0),
             (_box(-1.25, -0.2, -0.85, 0.2), 0.45)],
    "ball": [(_ellipse(0, 0, 0.8, 0.72), 1.0), (_ellipse(-0.25, -0.25, 0.25, 0.18), 1.25)],
    "stone": [([(-0.9, 0.1), (-0.5, -0.6), (0.3, -0.7), (0.95, -0.1), (0.6, 0.6), (-0.4, 0.65)], 1.0),
              ([(-0.4, -0.4), (0.25, -0.5), (0.1, -0.1)], 1.2)],
    "leaf": [([(-1.0, 0.0), (-0.3, -0.5), (0.6, -0.4), (1.1, 0.0), (0.6, 0.4), (-0.3, 0.5)], 1.0),
             (_box(-1.3, -0.05, 0.9, 0.05), 0.6)],
    "box": [(_box(-0.95, -0.75, 0.95, 0.75), 1.0), (_box(-0.95, -0.12, 0.95, 0.12), 0.7)],
    "slab": [(_box(-0.55, -0.95, 0.55, 0.95), 1.0), (_box(-0.42, -0.75, 0.42, 0.6), 1.7)],
    "plank": [(_box(-1.7, -0.55, 1.7, 0.55), 1.0), (_box(-1.7, -0.1, 1.7, -0.02), 0.75),
              (_box(-1.7, 0.25, 1.7, 0.31), 0.75)],
    "door": [(_box(-1.0, -1.6, 1.0, 1.3), 1.0), (_box(-0.7, -1.3, 0.7, -0.2), 0.85),
             (_ellipse(0.75, 0.1, 0.15, 0.15), 1.6)],
    "drawer": [(_box(-1.5, -0.7, 1.5, 0.7), 1.0), (_box(-1.3, -0.5, 1.3, 0.5), 0.8),
               (_box(-0.4, -0.1, 0.4, 0.1), 1.8)],
}  # fmt: skip


def _shade(colour: Colour, factor: float) -> Colour:
    r, g, b = (max(0, min(255, int(c * factor))) for c in colour)
    return r, g, b


class _Painter:
    """Draws on an image whose frame is `scale` pixels wide, with its top left corner at `origin` (pixels)."""

    def __init__(self, image: Image.Image, scale: int, origin: tuple[int, int]) -> None:
        self.draw, self.scale, self.origin = ImageDraw.Draw(image), scale, origin

    def polygon(self, points: list[Point], colour: Colour) -> None:
        x0, y0 = self.origin
        self.draw.polygon([(x * self.scale + x0, y * self.scale + y0) for x, y in points], fill=colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        cx, cy, r = x * self.scale + self.origin[0], y * self.scale + self.origin[1], radius * self.scale
        self.draw.ellipse([cx - r, cy - r, cx + r, cy + r], fill=colour)

    def stroke(self, start: Point, stop: Point, width: float, colour: Colour) -> None:
        line = [c * self.scale + self.origin[i % 2] for i, c in enumerate((*start, *stop))]
        self.draw.line(line, fill=colour, width=max(1, round(width * self.scale)))

    def object(
        self, shape: str, colour: Colour, x: float, y: float, radius: float, angle: float = 0.0, width: float = 1.0
    ) -> None:
        """Draw a noun's shape, turned by `angle` turns and squeezed sideways to `width`."""
        c, s = radius * math.cos(2 * math.pi * angle), radius * math.sin(2 * math.pi * angle)
        for outline, brightness in SHAPES[shape]:
            points = [(x + c * u * width - s * v, y + s * u * width + c * v) for u, v in outline]
            self.polygon(points, _shade(colour, brightness))

    def hand(self, x: float, y: float, side: int, skin: Colour, sleeve: Colour, finger: bool = False) -> None:
        """Draw a hand and its forearm, which enters from below; `side` is +1 (right) or -1 (left)."""
        wrist = (x + side * 0.05, y + 0.10)
        elbow = (0.5 + side * 0.34 + 0.3 * (x - 0.5), 1.15)
        middle = ((wrist[0] + elbow[0]) / 2, (wrist[1] + elbow[1]) / 2)
        self.stroke(wrist, middle, 0.095, skin)
        self.stroke(middle, elbow, 0.15, sleeve)
        self.disc(*middle, 0.07, sleeve)
        self.disc(x + side * 0.02, y + 0.04, 0.075, skin)
        for k in range(1 if finger else 3):
            tip = (x + side * (-0.045 + 0.035 * k), y - 0.055 + 0.012 * abs(k - 1))
            self.stroke((x + side * (0.01 + 0.015 * k), y + 0.02), tip, 0.034, skin)
            self.disc(*tip, 0.017, skin)
        self.stroke((x - side * 0.02, y + 0.05), (x - side * 0.09, y + 0.01), 0.036, _shade(skin, 0.9))


def _tool(painter: _Painter, tool: str, x: float, y: float) -> None:
    match tool:
        case "knife":
            painter.object("knife", (206, 210, 216), x - 0.13, y + 0.03, 0.1, 0.5)
        case "hammer":
            painter.stroke((x, y), (x - 0.17, y - 0.02), 0.03, (130, 84, 40))
            painter.polygon(_box(x - 0.21, y - 0.07, x - 0.14, y + 0.07), (50, 52, 58))
        case "rag":
            painter.object("sheet", (230, 214, 90), x, y, 0.11)
        case "stick":
            painter.stroke((x, y), (x - 0.06, y + 0.17), 0.028, (150, 110, 60))


def _source(painter: _Painter, source: str, x: float, sounding: bool, rng: Generator) -> None:
    y = 0.17
    match source:
        case "tv":
            painter.polygon(_box(x - 0.18, y - 0.13, x + 0.18, y + 0.12), (18, 18, 22))
            columns = rng.integers(60, 256, (3, 3)) if sounding else np.full((3, 3), 44)
            for k, (r, g, b) in enumerate(columns.tolist()):
                painter.polygon(_box(x - 0.16 + 0.107 * k, y - 0.11, x - 0.05 + 0.107 * k, y + 0.09), (r, g, b))
        case "tap":
            painter.stroke((x, y - 0.17), (x, y - 0.02), 0.05, (170, 176, 184))
            painter.stroke((x - 0.09, y - 0.04), (x + 0.02, y - 0.04), 0.045, (190, 196, 204))
            if sounding:
                shift = rng.uniform(-0.008, 0.008)
                painter.stroke((x - 0.08 + shift, y - 0.03), (x - 0.08 - shift, y + 0.22), 0.035, (200, 230, 250))
                for dx in rng.uniform(-0.06, 0.06, 4):
                    painter.disc(x - 0.08 + dx, y + 0.22, 0.014, (230, 244, 252))
        case "machine":
            shake = rng.uniform(-0.008, 0.008) if sounding else 0.0
            painter.polygon(_box(x - 0.13 + shake, y - 0.12, x + 0.13 + shake, y + 0.17), (214, 214, 220))
            centre = (x + shake, y + 0.04)
            painter.disc(*centre, 0.1, (50, 56, 70))
            turn = rng.uniform(0, 1) if sounding else 0.1
            for k in range(3):
                angle = 2 * math.pi * (turn + k / 3)
                tip = (centre[0] + 0.09 * math.cos(angle), centre[1] + 0.09 * math.sin(angle))
                painter.stroke(centre, tip, 0.035, (150, 190, 220))
            painter.disc(x - 0.09 + shake, y - 0.09, 0.022, (90, 255, 90) if sounding else (90, 30, 30))


def _person(painter: _Painter, woman: bool, x: float, mouth: float) -> None:
    shirt = (150, 60, 120) if woman else (60, 80, 140)
    painter.polygon(_ellipse(x, 0.62, 0.2, 0.3), shirt)
    if woman:
        painter.disc(x, 0.24, 0.13, (60, 36, 24))
    painter.disc(x, 0.25, 0.105, (222, 178, 148))
    painter.polygon(_ellipse(x, 0.19, 0.11, 0.08, 0.5, 1.0), (60, 36, 24))
    for eye in (x - 0.04, x + 0.04):
        painter.disc(eye, 0.24, 0.014, (20, 20, 20))
    painter.polygon(_ellipse(x, 0.3, 0.035, 0.008 + 0.02 * mouth), (120, 30, 40))


def _act(
    painter: _Painter, action: Action, time: float, spot: np.ndarray, look: tuple[Colour, Colour], rng: Generator
) -> None:
    """`spot`: the object's x, y, radius and angle; `look`: the colours of skin and sleeve."""
    phase = (time - action.start) / action.duration
    if not action.visible or not -0.25 <= phase <= 1.25:
        return
    x, y, radius, angle = spot
    if action.actor == "O":
        _person(painter, action.noun.name == "woman", x, float(rng.random()))
        return
    noun, now = action.noun, pose(action.verb.name, min(1.0, max(0.0, phase)), action.duration, action.tempo)
    left, top = x + now.object[0], y + now.object[1]
    if now.effect == "inside":
        painter.polygon(_box(left - 0.12, top - 0.1, left + 0.12, top + 0.1), (28, 24, 22))
    elif now.effect == "stream":
        colour = _shade(noun.colour, 0.5) if noun.material == "food" else (120, 180, 230)
        painter.stroke((left - 0.1, top - 0.02), (left - 0.13, top + 0.24), 0.03, colour)
    painter.object(noun.shape, noun.colour, left, top, radius, angle + now.angle, now.width)
    if now.left is not None:
        painter.hand(x + now.left[0], y + now.left[1], -1, *look)
    _tool(painter, now.tool, x + now.right[0], y + now.right[1])
    painter.hand(x + now.right[0], y + now.right[1], 1, *look, finger=now.tool == "finger")
    if now.effect == "water":
        for dx, dy in rng.uniform(-0.17, 0.17, (9, 2)):
            painter.disc(left + dx, top + dy, 0.014, (216, 236, 250))


def _surroundings(plan: VideoPlan, rng: Generator, scale: int) -> Image.Image:
    margin = round(MARGIN * scale)
    side = scale + 2 * margin
    tint = rng.uniform(0.85, 1.1)
    image = Image.new("RGB", (side, side), _shade(plan.scene.wall, tint))
    painter = _Painter(image, scale, (margin, margin))
    for x in np.arange(-0.2, 1.3, rng.uniform(0.1, 0.3)):
        painter.stroke((x, -0.2), (x, 0.4), 0.012, _shade(plan.scene.wall, 0.86 * tint))
    painter.polygon(_box(-0.3, 0.36, 1.3, 1.3), _shade(plan.scene.worktop, tint))
    for y in np.cumsum(rng.uniform(0.08, 0.2, 7)) + 0.36:
        painter.stroke((-0.3, y), (1.3, y + rng.uniform(-0.05, 0.05)), 0.01, _shade(plan.scene.worktop, 0.88 * tint))
    anything = [noun for noun in NOUNS if noun.material]
    at_home = [noun for noun in anything if noun.name in plan.scene.nouns]
    for _ in range(rng.integers(2, 6)):
        pool = at_home if rng.random() < 0.7 else anything
        noun = pool[rng.integers(len(pool))]
        x, y = rng.uniform(0.0, 1.0), rng.uniform(0.36, 0.55)
        painter.object(noun.shape, _shade(noun.colour, tint), x, y, rng.uniform(0.05, 0.09), rng.uniform(-0.1, 0.1))
    return image


def frames(plan: VideoPlan, world: World) -> np.ndarray:
    """Draw a video: uint8 [fps * seconds, size, size, 3]."""
    rng = np.random.default_rng([*plan.entropy, 2])
    scale, margin = 2 * world.size, round(MARGIN * 2 * world.size)
    surroundings = _surroundings(plan, rng, scale)
    count, actions = round(world.seconds * world.fps), len(plan.actions)
    skin = SKINS[rng.integers(4)]
    r, g, b = rng.integers(30, 200, 3).tolist()
    source_x = rng.uniform(0.2, 0.8)
    jitter = rng.normal(0, rng.uniform(0.005, 0.02), (count, 2))
    drift = np.clip(lfilter([1], [1, -0.9], jitter, axis=0), -MARGIN, MARGIN)
    places = rng.uniform((0.38, 0.58), (0.62, 0.7), (actions, 2))
    spots = np.column_stack([places, rng.uniform(0.12, 0.155, actions), rng.uniform(-0.08, 0.08, actions)])
    out = np.empty((count, world.size, world.size, 3), np.uint8)
    for index in range(count):
        time = (index + 0.5) / world.fps
        dx, dy = (round(float(d) * scale) for d in drift[index])
        image = surroundings.crop((margin + dx, margin + dy, margin + dx + scale, margin + dy + scale))
        painter = _Painter(image, scale, (-dx, -dy))
        slot = min(int(time / world.clip_every_sec), actions - 1)
        _source(painter, plan.source, source_x, plan.actions[slot].on_screen != "", rng)
        _act(painter, plan.actions[slot], time, spots[slot], (skin, (r, g, b)), rng)
        out[index] = np.asarray(image.reduce(2))
    light, grain = rng.uniform(0.75, 1.05), rng.normal(0, 2.5, (17, world.size, world.size, 1))
    for index in range(count):
        out[index] = np.clip(out[index] * light + grain[index % 17], 0, 255).astype(np.uint8)
    return out
