"""Views of an image that a prediction is averaged over: its mirror image, small shifts.

Each kind begins with the views of the smaller one, so that what was computed for a member that
wants many serves one that wants few.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

PLAIN, MIRRORED, SHIFTED = 1, 2, 10
VIEWS = (PLAIN, MIRRORED, SHIFTED)
"""How many views: the image; its mirror image too; and both of them in four more positions."""


def views_of(x_NCSS: "Tensor", views: int) -> list["Tensor"]:
    """The first ``views`` of an image, one of `VIEWS`, each ``[N, C, S, S]``.

    The image and its mirror image; then the image moved right, left, down and up by a 24th of its
    side (2 pixels of 48), each followed by its mirror image. What comes in at the edges is the
    image reflected.
    """
    seen = [x_NCSS]
    if views == SHIFTED:
        from torch.nn import functional as F  # an artifact is served without torch

        side = x_NCSS.shape[3]
        by = max(1, round(side / 24))
        padded = F.pad(x_NCSS, (by, by, by, by), mode="reflect")
        for right, down in ((by, 0), (-by, 0), (0, by), (0, -by)):
            rows = slice(by - down, by - down + side)
            seen.append(padded[:, :, rows, by - right : by - right + side])
    if views == PLAIN:
        return seen
    return [view for plain in seen for view in (plain, plain.flip(3))]
