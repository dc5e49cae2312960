"""Predictions of an exported ensemble; with the default backend, torch is never imported."""

from pathlib import Path
from typing import Literal

import numpy as np

from raysearch.ensemble.artifact import Artifact, load_artifact
from raysearch.errors import DataError


class Predictor:
    """An artifact ready to predict.

    Args:
        folder: the artifact, which is verified first (`ArtifactError`), or an opened one.
        backend: ``onnx`` (ONNX Runtime on the CPU) or ``torch``.
        batch_size: images at a time; more than fits the CPU's cache is slower.
    """

    def __init__(
        self,
        folder: Path | str | Artifact,
        backend: Literal["onnx", "torch"] = "onnx",
        batch_size: int = 64,
    ):
        self.artifact = folder if isinstance(folder, Artifact) else load_artifact(folder)
        self.classes = self.artifact.classes
        self.shape = self.artifact.shape
        self.batch_size = batch_size
        self._run = {"onnx": self._onnx, "torch": self._torch}[backend]()

    def predict_probs(self, images_NCHW: np.ndarray) -> np.ndarray:
        """uint8 [0, 255] of the artifact's ``shape`` to ``probs_NK`` float32, rows summing to 1.

        Raises `DataError` for another type or shape.
        """
        if images_NCHW.dtype != np.uint8 or images_NCHW.shape[1:] != self.shape:
            raise DataError(
                f"The ensemble takes uint8 images of shape [N, {', '.join(map(str, self.shape))}], "
                f"but got {images_NCHW.dtype} of shape {list(images_NCHW.shape)}."
            )
        if not len(images_NCHW):
            return np.empty((0, len(self.classes)), np.float32)
        return self._run(images_NCHW)

    def _onnx(self):
        from raysearch.ensemble.onnx import open_session, run_session

        session = open_session(self.artifact.model, self.shape, len(self.classes))
        return lambda images_NCHW: run_session(session, images_NCHW, self.batch_size)

    def _torch(self):
        from raysearch.ensemble.verify import predict_network

        network = self.artifact.network()
        return lambda images_NCHW: predict_network(network, images_NCHW, self.batch_size)[0]
