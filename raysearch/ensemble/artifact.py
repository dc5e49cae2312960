"""An exported ensemble: a folder that needs neither Ray nor the run that made it.

    ensemble.json               members, weights, temperatures, classes, scores (`manifest`)
    members/0007-ema/           model.safetensors and config.json (a `TrialRecord`)
    model.onnx                  uint8 images [N, C, H, W] to probabilities [N, K], all inside
    model.pt2                   the same for PyTorch alone (`torch.export.load`)
    README.md                   the model card
    SHA256SUMS                  of every other file

Reading one never unpickles, and allocates nothing before its size is known to be right.
``model.pt2`` is for other programs: PyTorch unpickles where such a file asks for it, so raysearch
only hashes and copies it.
"""

import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raysearch import __version__
from raysearch.ensemble import manifest as form
from raysearch.ensemble.manifest import InputEntry, Manifest, MemberEntry
from raysearch.ensemble.member import Member, weights_of
from raysearch.errors import ArtifactError, RunError
from raysearch.files import atomic_folder, write_json, write_text
from raysearch.models.views import PLAIN, SHIFTED

if TYPE_CHECKING:
    from raysearch.data.shards import Split
    from raysearch.ensemble.network import EnsembleNetwork
    from raysearch.train.trial import TrialRecord


@dataclass(frozen=True)
class Artifact:
    """A verified artifact."""

    path: Path
    manifest: Manifest

    @property
    def classes(self) -> tuple[str, ...]:
        return self.manifest.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        return self.manifest.input.shape

    @property
    def model(self) -> Path:
        return self.path / form.MODEL

    def network(self) -> "EnsembleNetwork":
        """The ensemble in PyTorch. Raises `ArtifactError` where a member's files disagree."""
        from raysearch.ensemble.assembly import build_network

        return build_network(self.path, self.manifest)


def load_artifact(folder: Path | str) -> Artifact:
    """Open and verify ``folder``; torch is not imported.

    Raises `ArtifactError` naming the file that is missing, changed, outside of the folder or of
    another format version, and what to do.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ArtifactError(
            f"There is no folder {folder}. Give the folder of an exported ensemble."
        )
    listed = form.verify_sums(folder)
    manifest = form.read_manifest(folder)
    form.check_listed(folder, manifest, listed)
    return Artifact(folder, manifest)


def write_artifact(
    folder: Path | str,
    members: Sequence[Member],
    records: Mapping[int, "TrialRecord"],
    *,
    temperature: float,
    validation: "Split",
    scores: Mapping[str, Any],
    data: Mapping[str, Any],
    cost: Mapping[str, Any] | None = None,
    probs_VK: np.ndarray | None = None,
    trained_on: tuple[str, ...] = ("train",),
    teacher: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write the ensemble of ``members`` (but those of weight 0) to ``folder`` and check it.

    Args:
        records: of each member's trial.
        temperature: of the ensemble.
        validation: the split that it was selected on.
        scores: ``scores["validation"]`` holds the selected ``accuracy`` and ``log_loss``.
        data: ``fingerprint``, ``name`` and ``splits`` (name to rows) of the data.
        cost: ``params``, ``bytes`` and ``flops`` of the whole; its latency is measured here.
        probs_VK: the selected ensemble's probabilities, from float16 ones of its members.
        trained_on: splits that the weights have seen. With validation among them, the scores are
            those of the selection, ``nested`` is needed, and what the files say on validation is
            no score: ``scores["selected"]`` has the tables of ``probs_VK``, which must be given.
        teacher: what `ensemble.json` says of it, for a distilled network.

    What was at ``folder`` before is replaced only by a whole, checked ensemble. Raises `RunError`
    where the files do not reproduce the selection (`raysearch.ensemble.verify`). Returns what
    ``ensemble.json`` says.
    """
    from raysearch.ensemble.assembly import build_network
    from raysearch.ensemble.card import model_card
    from raysearch.ensemble.latency import graph_latency
    from raysearch.ensemble.onnx import export_onnx
    from raysearch.ensemble.program import export_program, save_program
    from raysearch.ensemble.verify import (
        check_graphs,
        check_refit,
        check_selection,
        class_scores,
        predict_network,
    )

    members = [member for member in members if member.weight > 0]
    if not members:
        raise RunError("An ensemble needs a member with a weight above 0; there is none.")
    with atomic_folder(folder, replace=True) as partial:
        _copy_members(partial, members, records)
        manifest = _describe(members, records, temperature, validation, scores, data)
        manifest = manifest.model_copy(
            update={"trained_on": trained_on, "teacher": dict(teacher or {})}
        )
        network = build_network(partial, manifest)
        if manifest.refitted:
            torch_VK = predict_network(network, validation.images_NCHW)[0]
        else:
            torch_VK = check_selection(network, manifest, validation, probs_VK, Path(folder))
        program = export_program(network, manifest.input.shape)
        export_onnx(program, partial / form.MODEL, _metadata(manifest))
        save_program(program, partial / form.PROGRAM)
        exported = check_graphs(partial, torch_VK, manifest, validation, Path(folder))
        scores = {**scores, "exported": exported}
        if manifest.refitted:
            check_refit(manifest, exported, Path(folder))
            labels_V = validation.labels_N
            scores["selected"] = class_scores(probs_VK, labels_V, manifest.classes)
        measured = {**(cost or {}), **graph_latency(partial / form.MODEL, manifest.input.shape)}
        manifest = manifest.model_copy(update={"scores": scores, "cost": measured})
        write_json(partial / form.MANIFEST, manifest.model_dump(mode="json"))
        card = model_card(manifest, Path(folder).resolve().name, _by_folder(members, records))
        write_text(partial / form.CARD, card)
        form.write_sums(partial, manifest.files)
    return manifest


def copy_artifact(source: Path, target: Path) -> Artifact:
    """Copy a verified artifact to the new folder ``target`` and verify the copy."""
    artifact = load_artifact(source)
    if target.exists():
        raise ArtifactError(f"{target} exists already. Name a new folder, or remove it first.")
    with atomic_folder(target) as partial:
        for name in sorted(artifact.manifest.files | {form.SUMS}):
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, partial / name)
        load_artifact(partial)
    return Artifact(target, artifact.manifest)


def folder_of(member: Member) -> str:
    """Where the weights go; shared by candidates that differ in their views alone."""
    return f"members/{member.trial:04d}-{weights_of(member.candidate)}"


def _by_folder(
    members: Sequence[Member], records: Mapping[int, "TrialRecord"]
) -> dict[str, "TrialRecord"]:
    return {folder_of(member): records[member.trial] for member in members}


def _copy_members(
    partial: Path, members: Sequence[Member], records: Mapping[int, "TrialRecord"]
) -> None:
    for member in members:
        target = partial / folder_of(member)
        if target.exists():
            continue
        target.mkdir(parents=True)
        try:
            shutil.copyfile(member.weights_file, target / form.WEIGHTS)
        except OSError as error:
            raise RunError(
                f"The weights of trial {member.trial} cannot be read from {member.weights_file} "
                f"({error.strerror}). Select without this trial, or train it again."
            ) from None
        write_json(target / form.CONFIG, records[member.trial].to_json())


def _describe(
    members: Sequence[Member],
    records: Mapping[int, "TrialRecord"],
    temperature: float,
    validation: "Split",
    scores: Mapping[str, Any],
    data: Mapping[str, Any],
) -> Manifest:
    first = records[members[0].trial]
    total = sum(member.weight for member in members)
    counts = np.bincount(validation.labels_N, minlength=len(first.classes)) / len(validation)
    return Manifest(
        classes=first.classes,
        input=InputEntry(**dict(zip(("channels", "height", "width"), first.shape, strict=True))),
        preprocessing=_preprocessing(members, records),
        members=tuple(
            MemberEntry(
                trial=member.trial,
                candidate=member.candidate,
                weight=member.weight / total,
                temperature=member.temperature,
                folder=folder_of(member),
                mirror=member.views > PLAIN,
                shifts=member.views == SHIFTED,
                params=member.parameters,
            )
            for member in members
        ),
        temperature=temperature,
        class_shares=dict(zip(first.classes, counts.tolist(), strict=True)),
        scores=dict(scores),
        data=dict(data),
        versions=_versions(),
    )


def _preprocessing(
    members: Sequence[Member], records: Mapping[int, "TrialRecord"]
) -> dict[str, Any]:
    """What each set of weights does to uint8 images, in words and numbers."""
    inside = {
        folder: {
            "image_size": record.train.image_size,
            "scale": "1/255",
            "normalize": record.train.normalize,
            "mean": list(record.mean),
            "std": list(record.std),
        }
        for folder, record in _by_folder(members, records).items()
    }
    return {"resize": "bilinear, antialiased when shrinking", "members": inside}


def _metadata(manifest: Manifest) -> dict[str, str]:
    """For the graph's ``metadata_props``, which hold strings alone."""
    return {
        "raysearch_version": __version__,
        "classes": json.dumps(manifest.classes),
        "input": json.dumps(manifest.input.model_dump()),
        "preprocessing": json.dumps(manifest.preprocessing),
        "temperature": repr(manifest.temperature),
        "data_fingerprint": str(manifest.data.get("fingerprint", "")),
    }


def _versions() -> dict[str, str]:
    packages = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")
    found = {name: version(name) for name in packages}
    return {"raysearch": __version__, "python": platform.python_version(), **found}
