"""Probabilities in fp32 from the weights, in place of those that the search computed quickly.

The exported graph computes in fp32 from the weights: only probabilities made that way promise
the score that it will have.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from raysearch.data.feeding import HostImages
from raysearch.data.shards import Split
from raysearch.ensemble.assembly import check_weights, shapes_of
from raysearch.ensemble.library import Candidate, Library, normalized, read_candidates
from raysearch.ensemble.member import weights_of
from raysearch.errors import ArtifactError, RaysearchError
from raysearch.models.preprocess import Preprocess
from raysearch.models.views import SHIFTED
from raysearch.probabilities import read_probabilities, write_probabilities
from raysearch.train.evaluate import predict_probs
from raysearch.train.trial import TrialFolder, TrialRecord

EXACT = "fp32"


def without_lost_weights(library: Library) -> Library:
    """Leave out the candidates that cannot be exported: whose weights were not kept or are damaged,
    or whose network cannot be built any more."""
    faults: dict[Path, str] = {}
    for candidate in library.candidates:
        file = candidate.weights_file
        if file not in faults:
            faults[file] = _fault_of(file, library.records[candidate.trial])
    reasons = {n: faults[candidate.weights_file] for n, candidate in enumerate(library.candidates)}
    return library.without({n: reason for n, reason in reasons.items() if reason})


def _fault_of(file: Path, record: TrialRecord) -> str:
    if not file.is_file():
        return "its weights were not kept"
    try:
        shapes = shapes_of(record, f"config.json of trial {record.trial}")
    except ArtifactError as error:
        return f"its network cannot be built any more: {error}"
    try:
        check_weights(file, shapes)
    except ArtifactError as error:
        return f"its weights cannot be used: {error}"
    return ""


def rescore(
    library: Library,
    indices: list[int],
    validation: Split,
    device: torch.device,
    on_progress: Callable[[str], None] = lambda line: None,
) -> Library:
    """Compute the candidates at ``indices`` in fp32, into their files and a new library.

    A candidate whose weights cannot be read or do not fit its network is left out with the
    reason.
    """
    images_NCHW = HostImages(validation.images_NCHW, device)
    probs_NVK = library.probs_NVK.copy()
    candidates = list(library.candidates)
    lost: dict[int, str] = {}
    for trial in sorted({candidates[n].trial for n in indices}):
        wanted = [n for n in indices if candidates[n].trial == trial]
        names = ", ".join(candidates[n].name for n in wanted)
        on_progress(f"recomputing trial {trial} ({names}) in fp32")
        done = {}
        for n in wanted:
            try:
                done[n] = _predict(library.records[trial], candidates[n], images_NCHW, device)
            except (OSError, RuntimeError, SafetensorError, RaysearchError) as error:
                lost[n] = f"its weights cannot be used: {error}"
        if done:
            _rewrite(library.records[trial], [(candidates[n], done[n]) for n in done])
        for n, probs_VK in done.items():
            candidates[n] = replace(candidates[n], precision=EXACT)
            probs_NVK[n] = normalized(probs_VK)
    updated = replace(library, candidates=tuple(candidates), probs_NVK=probs_NVK)
    return updated.without(lost)


def add_shifts(
    library: Library,
    members: Sequence[int],
    validation: Split,
    device: torch.device,
    on_progress: Callable[[str], None] = lambda line: None,
) -> Library:
    """The library and a candidate of ten views for the weights of each of ``members``, in fp32,
    written to its trial's file too. Weights that have one already are left alone."""
    wanted = {}
    for n in members:
        candidate = library.candidates[n]
        name = weights_of(candidate.name) + "_shifts"
        wanted[candidate.trial, name] = replace(candidate, name=name, views=SHIFTED)
    known = {(candidate.trial, candidate.name) for candidate in library.candidates}
    added = [candidate for key, candidate in wanted.items() if key not in known]
    old, blank_VK = len(library), np.zeros_like(library.probs_NVK[:1])
    extended = replace(
        library,
        candidates=(*library.candidates, *added),
        probs_NVK=np.concatenate([library.probs_NVK, *[blank_VK] * len(added)]),
    )
    return rescore(extended, list(range(old, old + len(added))), validation, device, on_progress)


def _predict(
    record: TrialRecord, candidate: Candidate, images_NCHW: HostImages, device: torch.device
) -> NDArray[np.float16]:
    with torch.random.fork_rng(devices=[]):
        preprocess, network = record.build()
    network.load_state_dict(load_file(candidate.weights_file))
    probs_VK = _full_precision_probs(network, preprocess, images_NCHW, candidate.views, device)
    return probs_VK.numpy().astype(np.float16)


def _full_precision_probs(
    network: torch.nn.Module,
    preprocess: Preprocess,
    images_NCHW: HostImages,
    views: int,
    device: torch.device,
) -> torch.Tensor:
    """`predict_probs` without TF32, whose ten-bit mantissas the exported graph does not have."""
    matmul, convolution = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        return predict_probs(
            network.to(device), preprocess.to(device), images_NCHW, views=views, device=device
        )
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul
        torch.backends.cudnn.allow_tf32 = convolution


def _rewrite(record: TrialRecord, done: list[tuple[Candidate, NDArray[np.float16]]]) -> None:
    """Put the new probabilities into the trial's file; stale ones that were not recomputed go."""
    folder = TrialFolder(done[0][0].weights_file.parents[1])
    old = read_probabilities(folder.validation)
    kept = {
        candidate.name: probs_VK
        for candidate, probs_VK in read_candidates(folder, record, old)
        if candidate.precision != "stale"
    }
    kept |= {candidate.name: probs_VK for candidate, probs_VK in done}
    precision = {name: old.precision.get(name, "unknown") for name in kept}
    precision |= {candidate.name: EXACT for candidate, _ in done}
    write_probabilities(folder.validation, replace(old, candidates=kept, precision=precision))
