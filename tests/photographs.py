"""A labelled set of colour pictures of mixed sizes, drawn by a program, as a user's photographs
come: a folder a class, JPEG and PNG, portrait and landscape."""

from pathlib import Path

import numpy as np
from PIL import Image

from raysearch.data.faces import draw_face

EXPRESSIONS = {
    "anger": "angry",
    "disgust": "disgust",
    "fear": "fear",
    "happy": "happy",
    "pain": "surprise",  # which no drawing is of
    "sad": "sad",
}
SIDES = (90, 180)


def write_photographs(folder: Path, count: int = 1000, seed: int = 0) -> Path:
    """``folder/<class>/<number>.jpg`` or ``.png``, the classes in turn."""
    rng = np.random.default_rng(seed)
    names = list(EXPRESSIONS)
    for name in names:
        (folder / name).mkdir(parents=True)
    for number in range(count):
        name = names[number % len(names)]
        picture = photograph(EXPRESSIONS[name], rng)
        if rng.random() < 0.7:
            picture.save(folder / name / f"{number:04d}.jpg", quality=85)
        else:
            picture.save(folder / name / f"{number:04d}.png", compress_level=1)
    return folder


def photograph(expression: str, rng: np.random.Generator) -> Image.Image:
    """A face in the colours of skin before a coloured wall, upright or across."""
    short, long = sorted(int(side) for side in rng.integers(*SIDES, 2))
    size = (long + 8, short) if rng.random() < 0.5 else (short, long + 8)
    wall = Image.new("RGB", size, tuple(int(value) for value in rng.integers(40, 200, 3)))
    gray = draw_face(expression, 72, rng).astype(np.float32)
    tone_3 = np.array([1.0, rng.uniform(0.7, 0.9), rng.uniform(0.5, 0.8)])
    face = Image.fromarray((gray[:, :, None] * tone_3).astype(np.uint8))
    side = round(0.9 * min(size))
    place = ((size[0] - side) // 2, (size[1] - side) // 2)
    wall.paste(face.resize((side, side), Image.Resampling.BILINEAR), place)
    return wall
