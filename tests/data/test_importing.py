import csv
import gzip
import io
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_samples import encode, random_png, table_row, write_tree, write_zip

from raysearch.data.importing import import_data
from raysearch.data.layouts import FER_CLASSES
from raysearch.data.shards import open_shards
from raysearch.errors import DataError


def rows_of(folder, split):
    split = open_shards(folder).split(split)
    return split.images_NCHW[:, 0], split.labels_N


def tar_gz(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_image_archive_gives_equal_data_as_zip_and_as_folder(tmp_path, fer_files):
    folder = write_tree(tmp_path / "tree", fer_files)
    archive = write_zip(tmp_path / "fer2013.zip", {f"fer/{k}": v for k, v in fer_files.items()})
    first = import_data([str(folder)], tmp_path / "a")
    second = import_data([str(archive)], tmp_path / "b")
    assert first.images == {"train": 28, "validation": 14, "test": 7}
    assert first.classes == FER_CLASSES and first.shape == (1, 8, 8)
    assert first.fingerprint == second.fingerprint
    assert "FER2013 image archive" in first.found


def test_image_archive_without_private_images_keeps_an_empty_test_split(tmp_path, fer_files):
    public = {name: data for name, data in fer_files.items() if "Private" not in name}
    report = import_data([str(write_tree(tmp_path / "tree", public))], tmp_path / "out")
    assert report.images == {"train": 28, "validation": 14, "test": 0}
    assert "no PrivateTest images" in report.notes[0]
    assert len(open_shards(tmp_path / "out").split("test").images_NCHW) == 0


def spaced(table: str) -> str:
    """The other Kaggle table: columns in another order, header names after a space."""
    rows = [line.split(",") for line in table.splitlines()]
    lines = [f"{emotion}, {usage}, {pixels}" for emotion, pixels, usage in rows[:1]]
    return "\n".join(lines + [f"{e},{u},{p}" for e, p, u in rows[1:]]) + "\n"


@pytest.mark.parametrize(
    "write",
    [
        lambda root, t: (root / "fer2013.csv").write_text(t),
        lambda root, t: (root / "fer2013.csv").write_text(t.replace("\n", "\r\n")),
        lambda root, t: (root / "icml_face_data.csv").write_text(spaced(t)),
        lambda root, t: (root / "x.csv.gz").write_bytes(gzip.compress(t.encode())),
        lambda root, t: write_zip(
            root / "x.zip", {"fer2013.csv": t.encode(), "test.csv": b"pixels\n"}
        ),
        lambda root, t: tar_gz(
            root / "x.tar.gz", {"fer2013/README": b"hi", "fer2013/fer2013.csv": t.encode()}
        ),
    ],
    ids=["csv", "crlf", "icml", "gz", "zip", "tar.gz"],
)
def test_table_is_read_however_it_is_packed(tmp_path, fer_table, fer_pixels, write):
    source = tmp_path / "source"
    source.mkdir()
    write(source, fer_table)
    (path,) = source.iterdir()
    report = import_data([str(path)], tmp_path / "out")
    assert report.images == {"train": 35, "validation": 7, "test": 7}
    assert "Usage column" in report.found
    for split, start, stop in (("train", 0, 35), ("validation", 35, 42), ("test", 42, 49)):
        images, labels = rows_of(tmp_path / "out", split)
        np.testing.assert_array_equal(images, fer_pixels[start:stop])
        np.testing.assert_array_equal(labels, np.arange(start, stop) % 7)


def test_one_table_per_split(tmp_path, fer_pixels):
    sources = []
    for name, start, stop in (("train", 0, 35), ("validation", 35, 42), ("test", 42, 49)):
        rows = [table_row(fer_pixels[i], i % 7) for i in range(start, stop)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["emotion,pixels", *rows]))
        sources.append(f"{name}={tmp_path / name}.csv")
    report = import_data(sources, tmp_path / "out")
    assert report.images == {"train": 35, "validation": 7, "test": 7}
    folder = import_data([str(tmp_path)], tmp_path / "other" / "out")
    assert folder.fingerprint == report.fingerprint


def test_quoted_pixels_without_usage_are_cut_into_splits(tmp_path, fer_pixels):
    rows = [table_row(p, 0).replace("0,", '0,"', 1) + '"' for p in fer_pixels]
    (tmp_path / "train.csv").write_text("\n".join(['"emotion","pixels"', *rows]))
    report = import_data([str(tmp_path / "train.csv")], tmp_path / "out")
    assert report.images == {"train": 39, "validation": 5, "test": 5}
    assert "No test split was found: 5 images" in report.notes[0]


def class_folders(rng, splits=("",), per_class=20, channels=1):
    return {
        f"{split}{name}/{index}.png": random_png(rng, 8, channels)
        for split in splits
        for name in ("cat", "dog")
        for index in range(per_class)
    }


def test_class_folders_are_cut_stratified_and_seeded(tmp_path, rng):
    tree = str(write_tree(tmp_path / "tree", class_folders(rng)))
    reports = [
        import_data([tree], tmp_path / str(i), seed=seed) for i, seed in enumerate((1, 1, 2))
    ]
    assert reports[0].images == {"train": 32, "validation": 4, "test": 4}
    counts = open_shards(tmp_path / "0").manifest["splits"]["validation"]["class_counts"]
    assert counts == {"cat": 2, "dog": 2}
    assert reports[0].fingerprint == reports[1].fingerprint != reports[2].fingerprint


def test_merged_test_folder_is_kept_and_validation_is_cut_from_train(tmp_path, rng):
    files = {
        f"{split}/{name}/{i}.png": random_png(rng)
        for split in ("train", "test")
        for name in FER_CLASSES
        for i in range(10)
    }
    report = import_data([str(write_zip(tmp_path / "m.zip", files))], tmp_path / "out")
    assert report.images == {"train": 63, "validation": 7, "test": 70}
    assert any("PublicTest and PrivateTest" in note for note in report.notes)


def test_rgb_folders_of_mixed_sizes_become_one_shape(tmp_path, rng):
    files = class_folders(rng, ("train/", "val/", "test/"), 3, channels=3)
    for index, side in enumerate((5, 9, 20)):
        files[f"train/cat/more{index}.png"] = random_png(rng, side, 3)
    tree = str(write_tree(tmp_path / "tree", files))
    report = import_data([tree], tmp_path / "a")
    assert report.shape == (3, 8, 8) and "--image-size" in report.notes[0]
    assert report.images == {"train": 9, "validation": 6, "test": 6}
    assert import_data([tree], tmp_path / "b", image_size=12, channels=1).shape == (1, 12, 12)


@pytest.mark.parametrize(
    ("sizes", "side", "note"),
    [
        ([(64, 48)], None, "are 64x48 pixels: what is not square is cut about its centre, and all"),
        ([(512, 512)], None, "are 512x512 pixels: all become 224x224 pixels (choose another size"),
        ([(20, 20), (30, 30)], None, "are of several sizes: all become 25x25 pixels (choose"),
        ([(20, 20), (30, 20)], None, "are of several sizes: what is not square is cut about its"),
        ([(64, 48)], 48, "are 64x48 pixels: what is not square is cut about its centre, and all"),
        ([(48, 48)], None, None),
        ([(64, 64)], 64, None),
    ],
    ids=str,
)
def test_what_becomes_of_images_of_another_shape_is_said(tmp_path, rng, sizes, side, note):
    files = {
        f"{name}/{i}.png": encode(rng.integers(0, 256, sizes[i % len(sizes)][::-1], dtype=np.uint8))
        for name in ("cat", "dog")
        for i in range(6)
    }
    tree = str(write_tree(tmp_path / "tree", files))
    notes = import_data([tree], tmp_path / "out", image_size=side).notes
    said = [line for line in notes if "pixels" in line]
    assert [line.startswith(f"The images {note}") for line in said] == ([True] if note else [])
    assert all(("--image-size" in line) == (side is None) for line in said)


def test_corrupt_photo_among_a_thousand_is_left_out_and_listed(tmp_path, rng):
    files = class_folders(rng, per_class=500)
    files["cat/7.png"] = files["cat/7.png"][:40]
    report = import_data([str(write_zip(tmp_path / "x.zip", files))], tmp_path / "out")
    assert report.rejected == 1 and sum(report.images.values()) == 999
    with open(tmp_path / "out" / "rejected.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["where"] for row in rows] == ["cat/7.png"] and rows[0]["why"]


def test_more_than_one_percent_bad_rows_is_an_error_that_leaves_nothing(tmp_path, fer_pixels):
    rows = [table_row(fer_pixels[i % 49], i % 7, "Training") for i in range(98)]
    text = "\n".join(["emotion,pixels,Usage", *rows, "0,1 2 3,Training", "8,1,Training"])
    (tmp_path / "fer2013.csv").write_text(text)
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"2 of 100 rows .* fer2013.csv:100: 3 pixels") as error:
        import_data([str(tmp_path / "fer2013.csv")], out)
    assert error.value.exit_code == 2 and "--allow-rejected" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["fer2013.csv"]
    report = import_data([str(tmp_path / "fer2013.csv")], out, allow_rejected=True)
    assert report.rejected == 2 and (out / "rejected.csv").exists()


def test_existing_import_is_never_merged_into(tmp_path, fer_files):
    tree = str(write_tree(tmp_path / "tree", fer_files))
    before = import_data([tree], tmp_path / "out")
    with pytest.raises(DataError, match="already holds imported data. Delete it or name another"):
        import_data([tree], tmp_path / "out")
    assert open_shards(tmp_path / "out").fingerprint == before.fingerprint


@pytest.mark.parametrize(
    ("sources", "why"),
    [
        (["nothing.zip"], "There is no"),
        (["a.csv", "b.csv"], "one per split, like `train=a.csv"),
        (["train=a.csv", "train=b.csv"], "one per split"),
        ([], "at least one source"),
    ],
)
def test_unusable_sources_name_the_remedy(tmp_path, sources, why):
    with pytest.raises(DataError, match=why):
        import_data(sources, tmp_path / "out")


def test_twins_stay_on_one_side_of_a_cut(tmp_path, rng):
    picture = random_png(rng)
    files = class_folders(rng) | {f"cat/twin{i}.png": picture for i in range(10)}
    import_data([str(write_tree(tmp_path / "tree", files))], tmp_path / "out")
    shards = open_shards(tmp_path / "out")
    homes = [
        name
        for name in shards.splits
        if any("twin" in source for source in shards.split(name).sources)
    ]
    assert len(homes) == 1


@settings(max_examples=15, deadline=None)
@given(sides=st.lists(st.integers(1, 40), min_size=6, max_size=9))
def test_any_sizes_give_one_shape(tmp_path_factory, sides):
    root = tmp_path_factory.mktemp("sizes")
    files = {
        f"{'ab'[i % 2]}/{i}.png": encode(np.full((side, sides[-i]), i, np.uint8))
        for i, side in enumerate(sides)
    }
    report = import_data([str(write_tree(root / "tree", files))], root / "out")
    assert report.shape[1] == report.shape[2]
    assert sum(report.images.values()) == len(sides)


def test_killed_import_leaves_no_folder(tmp_path, rng):
    """SIGKILL while rows are being read; the next import clears what it left and succeeds."""
    tree = str(write_tree(tmp_path / "tree", class_folders(rng, per_class=200)))
    out = tmp_path / "place" / "out"
    code = (
        "import sys, time\n"
        "from raysearch.data.importing import import_data\n"
        "def progress(done, total):\n"
        "    print(done, flush=True)\n"
        "    time.sleep(60)\n"
        "import_data([sys.argv[1]], sys.argv[2], progress=progress)\n"
    )
    command = [sys.executable, "-c", code, tree, str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert int(process.stdout.readline()) > 0
        process.send_signal(signal.SIGKILL)
    assert not out.exists()
    assert import_data([tree], out).images["train"] > 0
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.real_data
def test_real_archive_is_read_whole_and_in_time(tmp_path, fer2013_zip):
    started = time.perf_counter()
    report = import_data([str(fer2013_zip)], tmp_path / "out")
    assert report.images["train"] == 28709 and report.images["validation"] == 3589
    assert report.rejected == 0 and report.shape == (1, 48, 48)
    assert time.perf_counter() - started < 30
    counts = open_shards(tmp_path / "out").manifest["splits"]["train"]["class_counts"]
    assert list(counts.values()) == [3995, 436, 4097, 7215, 4830, 3171, 4965]
