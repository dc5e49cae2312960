"""What is said before a search starts."""

import pytest

from raysearch.pipeline import tell_size
from raysearch.space import load_space


@pytest.mark.parametrize(
    ("field", "side", "said"),
    [
        ("lr: 0.1", 96, ["space.yaml says no image_size: images of 96 x 96 pixels are resized to"]),
        ("lr: 0.1", 48, []),
        ("image_size: 32", 96, []),
        ("image_size: {choice: [32, 64]}", 96, []),
    ],
)
def test_size_that_nobody_chose_is_said(tmp_path, field, side, said):
    (tmp_path / "space.yaml").write_text(f"train:\n  model: mlp\n  {field}\n")
    lines = []
    tell_size(load_space(tmp_path / "space.yaml"), (1, side, side), lines.append)
    assert [line.split("/")[-1][: len(said[0])] for line in lines] == said
