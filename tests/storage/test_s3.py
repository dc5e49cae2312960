"""The same as `test_mirror` on a store that speaks S3: objects, no folders, another clock."""

import pytest

from raysearch.errors import ArtifactError, RunError
from raysearch.storage import mirror as module
from raysearch.storage.mirror import Mirror
from raysearch.storage.runs import LARGE, changed_place, new_place, open_place


def write(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def tree(folder):
    paths = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths if p.name != ".lock"}


FILES = {
    "run.yaml": b"data: x\n",
    "trials/0000/checkpoint/state.pt": bytes(6_000_000),  # more than one part of an upload
    "trials/0000/best/model.safetensors": b"weights",
    "trials/0000/metrics.csv": b"",
}


def test_files_come_back_as_they_were_sent(tmp_path, bucket):
    here, there = Mirror(tmp_path / "a", f"{bucket}/one"), Mirror(tmp_path / "b", f"{bucket}/one")
    write(here.local, FILES)
    here.push()
    there.pull()
    assert tree(there.local) == FILES
    assert there.pull() == []
    here.remove("trials/0000/best")
    assert there.pull(exact=True) == []
    assert set(tree(there.local)) == set(FILES) - {"trials/0000/best/model.safetensors"}
    assert here.modified("run.yaml") > 0 and here.modified("none") == 0


def test_run_is_read_and_changed_from_a_machine_that_never_saw_it(tmp_path, bucket, monkeypatch):
    monkeypatch.setenv("RAYSEARCH_CACHE", str(tmp_path / "first"))
    place = new_place(f"{bucket}/mine", "one")
    assert not place.exists()
    write(place.path, FILES)
    place.push()
    monkeypatch.setenv("RAYSEARCH_CACHE", str(tmp_path / "second"))
    with changed_place(f"{bucket}/mine/one") as folder:
        assert set(tree(folder)) == set(FILES) - {"trials/0000/checkpoint/state.pt"}
        write(folder, {"ensemble/ensemble.json": b"{}", "ensemble/old": b""})
    with changed_place(f"{bucket}/mine/one") as folder:
        (folder / "ensemble/old").unlink()
    monkeypatch.setenv("RAYSEARCH_CACHE", str(tmp_path / "third"))
    few = tree(open_place(f"{bucket}/mine/one", skip=LARGE).path)
    assert set(few) == {"run.yaml", "trials/0000/metrics.csv"}
    found = tree(open_place(f"{bucket}/mine/one").path)
    assert "ensemble/ensemble.json" in found and "ensemble/old" not in found


def test_place_without_a_run_and_a_missing_bucket_are_told_apart(tmp_path, bucket, monkeypatch):
    monkeypatch.setenv("RAYSEARCH_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0)
    with pytest.raises(ArtifactError, match="s3://runs/none is not a run .* no run.yaml"):
        open_place(f"{bucket}/none")
    write(tmp_path / "a", {"x": b"1"})
    with pytest.raises(RunError, match="s3://other/one cannot be read or written: .*bucket"):
        Mirror(tmp_path / "a", "s3://other/one").push()
