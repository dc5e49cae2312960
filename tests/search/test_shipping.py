"""Images on their way to other machines, and runs that these can or cannot reach."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from raysearch import __version__
from raysearch.data.manifest import MANIFEST
from raysearch.data.shards import open_shards
from raysearch.errors import DataError, RunError
from raysearch.search import shipping
from raysearch.search.shipping import check_shared, local_shards, look, ship
from raysearch.storage.runs import RunPlace, new_place

pytestmark = pytest.mark.slow


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_machine_that_has_the_same_images_uses_its_own(ray_here, cache, shards_folder):
    assert local_shards(str(shards_folder), ship(shards_folder)) == str(shards_folder)
    assert not cache.exists()


def test_images_arrive_once_and_whole(ray_here, cache, shards_folder, monkeypatch):
    shipped, fetched = ship(shards_folder), []
    get = shipping.ray.get
    monkeypatch.setattr(shipping.ray, "get", lambda ref: fetched.append(ref) or get(ref))
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: local_shards("/nowhere", shipped), range(8)))
    assert len(folders) == 1 and len(fetched) == len(shipped.files)
    copy = open_shards(folders.pop())
    assert copy.fingerprint == open_shards(shards_folder).fingerprint


def test_other_images_under_the_same_path_are_not_used(ray_here, cache, shards_folder, tmp_path):
    other = shutil.copytree(shards_folder, tmp_path / "other")
    manifest = json.loads((other / MANIFEST).read_text())
    (other / MANIFEST).write_text(json.dumps(manifest | {"fingerprint": "0" * 32}))
    assert local_shards(str(other), ship(shards_folder)).startswith(str(cache))


def test_images_that_were_damaged_on_the_way_are_refused(ray_here, cache, shards_folder):
    shipped = ship(shards_folder)
    name = next(name for name in shipped.files if name.startswith("train"))
    data = bytearray(shipping.ray.get(shipped.files[name]))
    data[-100] ^= 1
    shipped.files[name] = shipping.ray.put(bytes(data))
    with pytest.raises(DataError, match=f"{name} was changed: its SHA-256 is wrong"):
        local_shards("/nowhere", shipped)
    assert not list((cache / "data").glob("*/"))


@pytest.mark.parametrize("kind", ["folder", "uri"])
def test_run_that_all_machines_reach_passes_and_keeps_no_trace(ray_here, cache, tmp_path, kind):
    storage = str(tmp_path / "runs") if kind == "folder" else f"file://{tmp_path}/runs"
    place = new_place(storage, "one")
    (tmp_path / "runs" / "one").mkdir(parents=True)
    check_shared(place)
    assert list((tmp_path / "runs" / "one").iterdir()) == []


def test_machine_that_sees_another_folder_of_that_name_is_named(ray_here, tmp_path, monkeypatch):
    monkeypatch.setattr(RunPlace, "write_file", lambda *_: None)
    (tmp_path / shipping.PROBE).write_text("of another machine")
    with pytest.raises(RunError, match=r"\S+ \(.*\) cannot take part in .* not shared .*s3://"):
        check_shared(RunPlace(tmp_path))


def test_machine_with_another_raysearch_is_named_with_both_versions(tmp_path):
    assert look(str(tmp_path), None, "x", "y", "9.9") == (
        f"it has raysearch {__version__}, the search 9.9; install the same one"
    )
