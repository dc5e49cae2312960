"""`Hog` beside scikit-image's `hog`, on noise, drawn and real images, and as an ONNX graph."""

import zipfile

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage import feature
from torch import nn

from raysearch.data.faces import MOVEMENTS, draw_face
from raysearch.ensemble.onnx import export_onnx
from raysearch.ensemble.program import export_program
from raysearch.errors import ConfigError
from raysearch.models.hog import Hog
from raysearch.models.preprocess import Preprocess

SETTINGS = [  # side, orientations, cell, block
    (48, 9, 8, 2),
    (48, 8, 6, 3),
    (48, 1, 8, 1),
    (50, 4, 7, 2),
    (33, 12, 5, 1),
    (47, 18, 3, 4),
    (16, 6, 8, 2),
]


def reference(images_NCSS: np.ndarray, orientations: int, cell: int, block: int) -> np.ndarray:
    gray = images_NCSS.shape[1] == 1
    return np.stack(
        [
            feature.hog(
                image_CSS[0] if gray else image_CSS,
                orientations,
                (cell, cell),
                (block, block),
                block_norm="L2-Hys",
                channel_axis=None if gray else 0,
            )
            for image_CSS in images_NCSS
        ]
    )


def drawn_faces(images: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """float32 ``[N, 1, S, S]`` in [0, 1]."""
    names = [list(MOVEMENTS)[n % len(MOVEMENTS)] for n in range(images)]
    faces = np.stack([draw_face(name, side, rng) for name in names])
    return faces[:, None].astype(np.float32) / 255


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_noise_has_the_features_of_scikit_image(setting, channels, rng):
    side, *options = setting
    images = rng.random((6, channels, side, side), dtype=np.float32)
    features = Hog(side, *options)(torch.from_numpy(images))
    assert features.dtype == torch.float32
    np.testing.assert_allclose(features, reference(images, *options), atol=1e-5)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_faces_have_the_features_of_scikit_image(setting, rng):
    side, *options = setting
    images = drawn_faces(7, side, rng)
    features = Hog(side, *options)(torch.from_numpy(images))
    np.testing.assert_allclose(features, reference(images, *options), atol=1e-4)


@pytest.mark.real_data
def test_real_faces_have_the_features_of_scikit_image(fer2013_zip):
    with zipfile.ZipFile(fer2013_zip) as archive:
        names = [name for name in archive.namelist() if name.endswith((".jpg", ".png"))][::700]
        faces = [np.asarray(Image.open(archive.open(name)).convert("L")) for name in names]
    images = np.stack(faces)[:, None].astype(np.float32) / 255
    np.testing.assert_allclose(
        Hog(48)(torch.from_numpy(images)), reference(images, 9, 8, 2), atol=1e-4
    )


@given(
    side=st.integers(8, 40),
    channels=st.integers(1, 4),
    orientations=st.integers(1, 20),
    cell=st.integers(1, 10),
    block=st.integers(1, 4),
    levels=st.sampled_from([2, 3, 256]),
    seed=st.integers(0, 2**31),
)
def test_any_shape_has_the_features_of_scikit_image(
    side, channels, orientations, cell, block, levels, seed
):
    """Whole numbers: gradients on the very borders of orientations, and equal in two channels."""
    block = min(block, max(side // cell, 1))
    cell = min(cell, side)
    rng = np.random.default_rng(seed)
    images = rng.integers(0, levels, (2, channels, side, side)).astype(np.float32)
    hog = Hog(side, orientations, cell, block)
    features = hog(torch.from_numpy(images))
    assert features.shape == (2, hog.features)
    np.testing.assert_allclose(features, reference(images, orientations, cell, block), atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0, 255.0])
def test_constant_images_have_zero_features(value):
    assert torch.equal(Hog(20)(torch.full((2, 3, 20, 20), value)), torch.zeros(2, 36))


def test_cells_are_the_features_as_a_map(rng):
    hog = Hog(48, orientations=7, cell=6, block=3)
    images = torch.from_numpy(drawn_faces(3, 48, rng))
    maps = hog.cells(images)
    assert maps.shape == (3, 3 * 3 * 7, 6, 6) == (3, hog.channels, hog.blocks, hog.blocks)
    blocks = hog(images).reshape(3, 6, 6, 63)
    assert torch.equal(maps[1, :, 4, 2], blocks[1, 4, 2])
    assert torch.equal(maps.permute(0, 2, 3, 1), blocks)


def test_features_do_not_depend_on_the_batch(rng):
    hog, images = Hog(48), torch.from_numpy(drawn_faces(5, 48, rng))
    alone = torch.cat([hog(image[None]) for image in images])
    torch.testing.assert_close(hog(images), alone, atol=1e-6, rtol=0)
    assert hog(images[:0]).shape == (0, hog.features)


def test_autocast_rounds_nothing(rng):
    hog, images = Hog(48), torch.from_numpy(drawn_faces(4, 48, rng))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = hog(images)
    assert torch.equal(features, hog(images))


def test_compiled_graph_is_whole_and_gives_the_same_features(rng):
    hog, images = Hog(24), torch.from_numpy(drawn_faces(4, 24, rng))
    compiled = torch.compile(hog, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), hog(images), atol=1e-6, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_onnx_graph_gives_the_features_of_scikit_image(channels, rng, tmp_path):
    hog = Hog(20, orientations=9, cell=5, block=2)
    network = nn.Sequential(Preprocess("dataset", 20, [0.0] * channels, [1.0] * channels), hog)
    program = export_program(network, (channels, 20, 20))
    opset = export_onnx(program, tmp_path / "hog.onnx", {})
    session = onnxruntime.InferenceSession(str(tmp_path / "hog.onnx"))
    images = rng.integers(0, 256, (3, channels, 20, 20), dtype=np.uint8)
    images[2] = 7
    features = session.run(None, {"images": images})[0]
    assert opset >= 18
    expected = reference(images.astype(np.float32) / 255, 9, 5, 2)
    np.testing.assert_allclose(features, expected, atol=1e-4)
    np.testing.assert_array_equal(features[2], 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_gives_the_features_of_the_cpu(rng):
    hog, images = Hog(48), torch.from_numpy(drawn_faces(16, 48, rng))
    expected = hog(images)
    torch.testing.assert_close(hog.cuda()(images.cuda()).cpu(), expected, atol=1e-4, rtol=0)


def test_image_without_a_whole_block_is_refused_with_the_remedy():
    with pytest.raises(ConfigError, match="image_size >= 48, but got 47. Make cell or block"):
        Hog(47, cell=16, block=3)
    with pytest.raises(ConfigError, match="at least 1, but got 0, 8 and 2"):
        Hog(48, orientations=0)
