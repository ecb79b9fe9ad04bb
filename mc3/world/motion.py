"""The mini world's motion: the positions of hands, tool and object during an action, for each verb."""

import math
from typing import NamedTuple


class Pose(NamedTuple):
    """Positions at one moment of an action, as offsets (x, y) in frame widths from the object's place."""

    object: tuple[float, float] = (0.0, 0.0)
    angle: float = 0.0  # of the object, in turns
    width: float = 1.0  # of the object (lid or door), squeezed sideways
    right: tuple[float, float] = (0.1, 0.08)  # hand
    left: tuple[float, float] | None = None  # hand; None: out of view
    tool: str = ""
    effect: str = ""  # what else is drawn: "water", "stream" or "inside"


def pose(verb: str, phase: float, seconds: float, tempo: float) -> Pose:
    """The pose at `phase` (0..1) of an action of `verb` (its name) that lasts `seconds`."""
    beat = phase * seconds * tempo  # a stroke is lowest when it sounds (`sound`): at time (k + 1/2) / tempo
    swing, sway = math.cos(2 * math.pi * beat), math.sin(2 * math.pi * beat)
    match verb:
        case "cut":
            return Pose(right=(0.06, -0.04 - 0.06 * (1 + swing)), left=(-0.15, 0.05), tool="knife")
        case "hit":
            return Pose(right=(0.16, -0.06 - 0.1 * (1 + math.cos(math.pi * beat))), left=(-0.16, 0.08), tool="hammer")
        case "wash":
            turn = 2 * math.pi * beat * 0.6
            shift = (0.03 * math.cos(turn), 0.02 * math.sin(turn))
            return Pose(shift, 0.03 * sway, 1.0, (0.1 + 2 * shift[0], 0.04), (-0.12, 0.06), effect="water")
        case "wipe":
            return Pose(right=(0.2 * math.sin(math.pi * beat * 0.7), 0.02), tool="rag")
        case "rub":
            reach = 0.05 * math.sin(math.pi * beat * 1.6)
            return Pose(right=(0.04 + reach, reach), left=(-0.06 - reach, 0.04 - reach))
        case "stir":
            turn = math.pi * beat * 0.8
            right = (0.09 * math.cos(turn) + 0.05, -0.15 + 0.05 * math.sin(turn))
            return Pose(right=right, left=(-0.15, 0.06), tool="stick")
        case "close" | "open":
            move = min(1.0, phase / 0.6) if verb == "close" else 1.0 - min(1.0, max(0.0, phase - 0.15) / 0.65)
            return Pose((0.0, 0.0), 0.0, 0.35 + 0.65 * move, (-0.12 + 0.22 * move, 0.03), effect="inside")
        case "touch":
            tip = 0.14 * min(abs(phase - 0.45), abs(phase - 0.62)) / 0.15
            return Pose(right=(0.05 + tip, 0.05 + tip), tool="finger")
        case "put":
            height = 0.3 * max(0.0, 1 - phase / 0.55)
            leave = max(0.0, phase - 0.6)
            return Pose((0.0, -height), 0.0, 1.0, (0.1 + 0.6 * leave, 0.05 - height + 0.5 * leave))
        case "drop":
            fallen = min(1.0, max(0.0, phase - 0.22) / 0.18)
            return Pose((0.0, -0.28 * (1 - fallen**2)), 0.12 * fallen, 1.0, (0.08, -0.3))
        case "take":
            gone = 0.55 * max(0.0, phase - 0.38)
            approach = 0.8 * max(0.0, 0.38 - phase)
            return Pose((gone, gone), 0.0, 1.0, (0.09 + gone + approach, 0.06 + gone + approach))
        case "lift":
            height = 0.25 * min(1.0, max(0.0, phase - 0.2) / 0.6)
            return Pose((0.0, -height), 0.0, 1.0, (0.12, 0.05 - height), (-0.12, 0.05 - height))
        case "pour":
            tilt = 0.3 * math.sin(math.pi * min(1.0, phase * 1.1))
            return Pose((0.04, -0.16), -tilt, 1.0, (0.13, -0.12), effect="stream")
        case "shake":
            up = 0.07 * math.sin(2 * math.pi * beat * 1.8)
            return Pose((0.3 * up, -0.1 + up), 0.05 * up, 1.0, (0.1 + 0.3 * up, -0.04 + up))
        case "turn":
            return Pose((0.0, -0.03), 0.5 * phase, 1.0, (0.11, 0.02), (-0.11, 0.04))
        case _:
            return Pose((0.0, -0.05), 0.0, 1.0, (0.1, 0.02), (-0.11, 0.03))
