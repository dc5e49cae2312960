"""A changed, missing, foreign or hostile file of an artifact is named; nothing is unpickled."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.torch import load_file, save_file

from raysearch.ensemble import manifest as form
from raysearch.ensemble.artifact import load_artifact
from raysearch.ensemble.predictor import Predictor
from raysearch.errors import ArtifactError, RaysearchError

WEIGHTS = "members/0012-ema/model.safetensors"
CONFIG = "members/0012-ema/config.json"


@pytest.fixture
def folder(tmp_path, artifact_folder) -> Path:
    return Path(shutil.copytree(artifact_folder, tmp_path / "ensemble"))


def reseal(folder: Path) -> None:
    """Make the sums right again, as someone who means harm would."""
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    form.write_sums(folder, names - {form.SUMS})


def edit_json(path: Path, change) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    "name", ["ensemble.json", "model.onnx", "model.pt2", "README.md", WEIGHTS, CONFIG]
)
def test_one_changed_byte_is_named_with_the_remedy(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{name} was changed or damaged.*export the ensemble"):
        load_artifact(folder)


@pytest.mark.parametrize(
    "name", ["ensemble.json", "model.onnx", "model.pt2", "README.md", WEIGHTS, CONFIG]
)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        load_artifact(folder)


def test_a_folder_that_is_no_artifact_says_what_to_give(tmp_path):
    with pytest.raises(ArtifactError, match="There is no folder"):
        load_artifact(tmp_path / "absent")
    with pytest.raises(ArtifactError, match="holds no SHA256SUMS"):
        load_artifact(tmp_path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b", "members\\x", ""])
def test_sums_cannot_name_a_file_outside(folder, name):
    with open(folder / "SHA256SUMS", "a") as file:
        file.write(f"{'0' * 64}  {name}\n")
    with pytest.raises(ArtifactError, match="SHA256SUMS, line 11 is not"):
        load_artifact(folder)


def test_a_listed_file_that_is_no_part_of_it_is_refused(folder):
    (folder / "extra.bin").write_bytes(b"x")
    load_artifact(folder)
    reseal(folder)
    with pytest.raises(ArtifactError, match="lists extra.bin, which is no part"):
        load_artifact(folder)


def test_a_file_left_out_of_the_sums_is_refused(folder):
    sums = folder / "SHA256SUMS"
    lines = sums.read_text().splitlines(keepends=True)
    sums.write_text("".join(line for line in lines if "model.onnx" not in line))
    with pytest.raises(ArtifactError, match="lacks the file model.onnx"):
        load_artifact(folder)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m: m["members"][0].update(folder="../../x"), "members.0.folder"),
        (lambda m: m["members"][0].update(folder="members/0003-ema\n"), "members.0.folder"),
        (lambda m: m["members"][0].update(weight=float("nan")), "members.0.weight"),
        (lambda m: m["members"][0].update(weight=0.9), "weights must sum to 1"),
        (lambda m: m["members"][0].update(temperature=0), "members.0.temperature"),
        (lambda m: m["input"].update(height=10**9), "input.height"),
        (lambda m: m.update(version=2), "format version 2; this raysearch reads version 1"),
        (lambda m: m.update(format="other"), "does not describe an ensemble"),
        (lambda m: m.update(classes=["a", "a", "b"]), "named twice"),
        (lambda m: m.update(membres=1), "membres.*did you mean 'members'"),
        (lambda m: m.pop("classes"), "'classes' is missing"),
    ],
)
def test_a_resealed_manifest_is_still_checked(folder, change, message):
    edit_json(folder / "ensemble.json", change)
    reseal(folder)
    with pytest.raises(ArtifactError, match=message):
        load_artifact(folder)


@pytest.mark.parametrize(
    "content", [b"", b"no json", b"[1]", b"\xff\xfe", b"[" * 100_000, b"1e999"]
)
def test_a_manifest_that_is_no_json_object_is_refused(folder, content):
    (folder / "ensemble.json").write_bytes(content)
    reseal(folder)
    with pytest.raises(ArtifactError, match="ensemble.json"):
        load_artifact(folder)


def test_weights_claiming_a_huge_header_are_refused(folder):
    (folder / WEIGHTS).write_bytes((2**40).to_bytes(8, "little") + b"{}")
    reseal(folder)
    with pytest.raises(ArtifactError, match="claims a header of 1,099,511,627,776 bytes"):
        load_artifact(folder).network()


def test_weights_of_another_network_are_named(folder):
    tensors = load_file(folder / WEIGHTS)
    first = sorted(tensors)[0]
    tensors[first] = tensors[first][:-1].contiguous()
    save_file(tensors, folder / WEIGHTS)
    reseal(folder)
    with pytest.raises(ArtifactError, match=f"tensor '{first}' should have the shape"):
        load_artifact(folder).network()


def test_a_network_too_large_for_its_weights_is_never_allocated(folder):
    edit_json(folder / CONFIG, lambda c: c["train"]["model"].update(width=200_000))
    reseal(folder)
    with pytest.raises(ArtifactError, match="should have the shape"):
        load_artifact(folder).network()


def test_a_pickle_in_place_of_weights_is_not_opened(folder, tmp_path):
    (folder / WEIGHTS).write_bytes(
        b"cos\nsystem\n(S'touch " + str(tmp_path / "x").encode() + b"'\ntR."
    )
    reseal(folder)
    with pytest.raises(ArtifactError, match="model.safetensors"):
        load_artifact(folder).network()
    assert not (tmp_path / "x").exists()


def test_a_graph_of_another_interface_or_with_outside_weights_is_refused(folder):
    model = onnx.load(folder / "model.onnx")
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../etc/passwd"
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    reseal(folder)
    with pytest.raises(ArtifactError, match="keeps weights in other files"):
        Predictor(folder)


def test_a_graph_that_does_not_fit_the_manifest_is_refused(folder):
    edit_json(folder / "ensemble.json", lambda m: m["input"].update(height=21))
    reseal(folder)
    with pytest.raises(ArtifactError, match=r"has the interface .*, but ensemble.json says"):
        Predictor(folder)


def test_mutated_artifacts_always_give_a_raysearch_error_or_work(folder, rng):
    """Random changes, with the sums made right again so that the parsers themselves are met."""
    names = ["ensemble.json", CONFIG, WEIGHTS, "SHA256SUMS"]
    originals = {name: (folder / name).read_bytes() for name in names}
    failures = 0
    for _ in range(300):
        name = names[rng.integers(len(names))]
        (folder / name).write_bytes(mutate(originals[name], rng))
        if name != "SHA256SUMS":
            reseal(folder)
        try:
            load_artifact(folder).network()
        except RaysearchError as error:
            failures += 1
            assert str(folder) in str(error)
        (folder / name).write_bytes(originals[name])
        reseal(folder)
    assert failures > 100


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """Bytes changed, cut, repeated or dropped, mostly near the start where headers are."""
    data = bytearray(content)
    at = int(rng.integers(min(len(data), 2000)))
    kind = rng.integers(4)
    if kind == 0:
        data[at] = int(rng.integers(256))
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        data[at:at] = data[at : at + int(rng.integers(1, 50))]
    else:
        del data[at : at + int(rng.integers(1, 20))]
    return bytes(data)
