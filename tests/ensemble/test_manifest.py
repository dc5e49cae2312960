"""A changed, missing, foreign or hostile file of an artifact is named; nothing is unpickled."""

import json
import shutil
from pathlib import Path

import onnx
import onnx.parser
import pytest
from safetensors.torch import load_file, save_file

from raysearch.ensemble import manifest as form
from raysearch.ensemble.artifact import load_artifact
from raysearch.ensemble.graphfile import check_graph_file
from raysearch.ensemble.predictor import Predictor
from raysearch.errors import ArtifactError

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


@pytest.mark.parametrize("name", ["model.onnx", "members"])
def test_a_link_that_leads_outside_is_refused_even_where_the_bytes_are_right(folder, name):
    """So is a file below a folder that is a link; a link within the artifact is not."""
    outside = folder.parent / "outside"
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    with pytest.raises(ArtifactError, match=f"{name}.* is a link that leads out of the ensemble"):
        load_artifact(folder)
    (folder / name).unlink()
    outside.rename(folder / "aside")
    (folder / name).symlink_to("aside")
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


LOOP = """
<ir_version: 8, opset_import: ["": 16]>
endless (float[1] x, int64 most, bool go) => (float[1] y) {
  y = Loop (most, go, x) <body = turn (int64 i, bool was, float[1] a) => (bool was, float[1] b) {
    b = Identity (a)
  }>
}
"""


def test_weights_outside_and_loops_are_found_wherever_a_graph_can_hide_them(tmp_path):
    """In a constant's attribute, in a graph within a graph, in a function; ONNX's own parser and
    writer make the files."""
    outside = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL, name="w", data_type=1)
    constant = onnx.helper.make_node("Constant", [], ["y"], value=outside)
    graph = onnx.helper.make_graph([constant], "g", [], [])
    inner = onnx.helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=graph)
    opset = [onnx.helper.make_opsetid("", 16)]
    function = onnx.helper.make_function("d", "f", [], ["y"], [constant], opset)
    empty = onnx.helper.make_graph([], "g", [], [])
    models = {
        "constant": onnx.helper.make_model(graph),
        "nested": onnx.helper.make_model(onnx.helper.make_graph([inner], "g", [], [])),
        "function": onnx.helper.make_model(empty, functions=[function]),
    }
    for name, model in models.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(model.SerializeToString())
        with pytest.raises(ArtifactError, match="keeps weights in other files"):
            check_graph_file(path)
    loop = tmp_path / "loop.onnx"
    loop.write_bytes(onnx.parser.parse_model(LOOP).SerializeToString())
    with pytest.raises(ArtifactError, match="holds the operator Loop"):
        check_graph_file(loop)
    plain = tmp_path / "plain.onnx"
    plain.write_bytes(onnx.helper.make_model(empty).SerializeToString())
    check_graph_file(plain)
    for broken in (b"", b"\xff" * 40, plain.read_bytes()[:-1]):
        plain.write_bytes(broken)
        with pytest.raises(ArtifactError, match="plain.onnx is not an ONNX model"):
            check_graph_file(plain)


def test_a_graph_that_does_not_fit_the_manifest_is_refused(folder):
    edit_json(folder / "ensemble.json", lambda m: m["input"].update(height=21))
    reseal(folder)
    with pytest.raises(ArtifactError, match=r"has the interface .*, but ensemble.json says"):
        Predictor(folder)
