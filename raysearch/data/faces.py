"""Drawn gray faces: a head, brows, eyes and a mouth moved by an expression, under nuisances.

The expressions follow the prototypes of the Facial Action Coding System (Ekman and Friesen, 1978)
loosely: brows lowered in anger, raised with wide eyes in fear and surprise, mouth corners up in
happiness and down in sadness. Intensity varies down to hardly visible, so classes overlap.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

OVERSAMPLE = 2
NUISANCE = 0.2
"""Standard deviation added to every facial movement, in units of a full movement."""

# brow height, brow inner end up, eye opening, mouth corners up, mouth opening, mouth width, nose
MOVEMENTS = {
    "angry": (-0.8, -1.0, -0.3, -0.3, 0.15, 0.0, 0.3),
    "disgust": (-0.5, -0.5, -0.6, -0.6, 0.3, -0.2, 1.0),
    "fear": (0.7, 0.8, 0.9, -0.3, 0.4, 0.3, 0.0),
    "happy": (0.1, 0.0, -0.3, 1.0, 0.3, 0.5, 0.1),
    "sad": (-0.1, 1.0, -0.4, -0.8, 0.0, -0.2, 0.0),
    "surprise": (1.0, 0.1, 0.9, 0.0, 1.0, -0.5, 0.0),
    "neutral": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
}


@dataclass(frozen=True)
class _Canvas:
    """Draws in face coordinates (about -1 to 1, y down), turned, scaled and shifted."""

    draw: ImageDraw.ImageDraw
    matrix_22: np.ndarray
    center_2: np.ndarray
    unit: float

    def _points(self, points: np.ndarray) -> list[tuple[float, float]]:
        return [tuple(point) for point in points @ self.matrix_22.T * self.unit + self.center_2]

    def ellipse(self, x: float, y: float, width: float, height: float, tone: float) -> None:
        angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        ring = np.stack([x + width * np.cos(angle), y + height * np.sin(angle)], axis=1)
        self.draw.polygon(self._points(ring), fill=int(tone))

    def stroke(self, points: np.ndarray, width: float, tone: float) -> None:
        pixels = max(1, round(width * self.unit))
        self.draw.line(self._points(points), fill=int(tone), width=pixels, joint="curve")

    def fill(self, points: np.ndarray, tone: float) -> None:
        self.draw.polygon(self._points(points), fill=int(tone))


def draw_face(expression: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 [size, size]: one face of a class of `MOVEMENTS`."""
    movement = np.array(MOVEMENTS[expression]) * rng.uniform(0.4, 1.15)
    brow, inner, eye, smile, gape, wide, nose = movement + rng.normal(0, NUISANCE, 7)
    side = size * OVERSAMPLE
    background, skin = rng.uniform(30, 110), rng.uniform(150, 225)
    image = Image.new("L", (side, side), int(background))
    turn, scale = np.deg2rad(rng.normal(0, 4)), rng.uniform(1.0, 1.12)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix *= [[scale * rng.uniform(0.9, 1.08)], [scale]]
    center = side * (0.5 + rng.normal(0, 0.015, 2))
    canvas = _Canvas(ImageDraw.Draw(image), matrix, center, side * 0.46)
    dark = skin * rng.uniform(0.1, 0.35)
    yaw = rng.normal(0, 0.03)
    _draw_head(canvas, skin, dark, rng)
    for sign in (-1, 1):
        _draw_eye(canvas, sign, yaw, (brow, inner, eye), skin, dark, rng)
    _draw_nose(canvas, yaw, nose, skin)
    _draw_mouth(canvas, yaw, (smile, gape, wide), dark)
    return _photograph(image, size, rng)


def _draw_head(canvas: _Canvas, skin: float, dark: float, rng: np.random.Generator) -> None:
    hair = rng.uniform(10, 120)
    width = rng.uniform(0.68, 0.8)
    canvas.ellipse(0, -0.22, width * 1.1, rng.uniform(0.72, 0.85), hair)
    canvas.ellipse(0, 0.08, width, rng.uniform(0.82, 0.95), skin)
    if rng.random() < 0.05:
        canvas.ellipse(0, 0.75, width * 0.6, 0.25, (skin + 2 * dark) / 3)


def _draw_eye(
    canvas: _Canvas,
    sign: int,
    yaw: float,
    movement: tuple[float, float, float],
    skin: float,
    dark: float,
    rng: np.random.Generator,
) -> None:
    brow, inner, eye = movement
    x, y = sign * 0.32 + yaw, -0.12
    opening = max(0.015, 0.1 * (1 + 0.8 * eye))
    canvas.ellipse(x, y, 0.17, opening, min(255, skin * 1.25))
    canvas.ellipse(x + yaw, y, 0.075, min(opening, 0.09), dark * 0.5)
    along = np.linspace(-1, 1, 5)
    lift = 0.13 * inner * -sign * along
    brow_y = y - 0.2 - 0.12 * brow - lift - 0.03 * (1 - along**2)
    canvas.stroke(np.stack([x + 0.2 * along, brow_y], axis=1), rng.uniform(0.06, 0.09), dark)


def _draw_nose(canvas: _Canvas, yaw: float, nose: float, skin: float) -> None:
    points = np.array([[yaw * 1.5 - 0.02, -0.05], [yaw * 2 + 0.07, 0.25], [yaw * 2 - 0.08, 0.27]])
    canvas.stroke(points, 0.03, skin * 0.7)
    for sign in (-1, 1):
        wrinkle = np.array([[sign * 0.12 + yaw, 0.2], [sign * (0.2 + 0.08 * nose) + yaw, 0.34]])
        canvas.stroke(wrinkle, 0.03, skin * (1 - 0.45 * float(np.clip(nose, 0, 1))))


def _draw_mouth(
    canvas: _Canvas, yaw: float, movement: tuple[float, float, float], dark: float
) -> None:
    smile, gape, wide = movement
    along = np.linspace(-1, 1, 9)
    width = 0.31 * (1 + 0.35 * wide)
    curve = 0.2 * smile * (1 - along**2) - 0.1 * smile
    opening = max(0.0, 0.3 * gape) * np.sqrt(np.clip(1 - along**2, 0, 1))
    upper = np.stack([along * width + yaw, 0.5 + curve - 0.35 * opening], axis=1)
    lower = np.stack([along * width + yaw, 0.5 + curve + opening], axis=1)
    canvas.fill(np.concatenate([upper, lower[::-1]]), dark * 0.5)
    canvas.stroke(upper, 0.06, dark)
    canvas.stroke(lower, 0.06, dark)


def _photograph(image: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """Light from a side, something in the way now and then, exposure and sensor noise."""
    small = image.resize((size, size), Image.Resampling.BOX)
    pixels = np.asarray(small, dtype=np.float32)
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    slope = rng.normal(0, 0.12, 2).astype(np.float32)
    pixels = pixels * (1 + slope[0] * axis[:, None] + slope[1] * axis[None, :])
    if rng.random() < 0.1:
        y, x = rng.integers(0, size, 2)
        reach = size // 6
        pixels[max(0, y - reach) : y + reach, max(0, x - reach) : x + reach] = rng.uniform(0, 255)
    contrast, noise = rng.uniform(0.75, 1.1), rng.uniform(2, 12)
    pixels = (pixels - 128) * contrast + 128 + rng.normal(0, 15)
    pixels += rng.normal(0, noise, (size, size)).astype(np.float32)
    return pixels.clip(0, 255).round().astype(np.uint8)
