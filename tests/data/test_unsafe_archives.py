"""Archives that try to write elsewhere, or to fill memory or disk."""

import io
import stat
import tarfile
import zipfile

import pytest
from image_samples import random_png, write_zip

from raysearch.data import containers
from raysearch.data.containers import Zip
from raysearch.data.importing import import_data
from raysearch.errors import DataError


def good_files(rng, count=300):
    return {f"{'ab'[i % 2]}/{i}.png": random_png(rng, 4) for i in range(count)}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../../evil.png", "outside"),
        ("a/../../evil.png", "outside"),
        ("/evil.png", "absolute"),
        ("C:/evil.png", "absolute"),
        ("..\\evil.png", "outside"),
    ],
)
def test_member_outside_of_the_archive_is_listed_and_never_written(tmp_path, rng, name, why):
    inner = tmp_path / "deep" / "er"
    inner.mkdir(parents=True)
    archive = write_zip(inner / "x.zip", good_files(rng) | {name: random_png(rng)})
    report = import_data([str(archive)], inner / "out")
    assert report.rejected == 1
    assert why in (inner / "out" / "rejected.csv").read_text()
    assert not list(tmp_path.rglob("*evil*"))


def test_symbolic_link_in_a_zip_is_refused(tmp_path, rng):
    archive = write_zip(tmp_path / "x.zip", good_files(rng))
    link = zipfile.ZipInfo("a/link.png")
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(link, "/etc/passwd")
    assert import_data([str(archive)], tmp_path / "out").rejected == 1
    assert "symbolic link" in (tmp_path / "out" / "rejected.csv").read_text()


def test_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    archive = write_zip(tmp_path / "x.zip", {"a/1.png": bytes(100 * 2**20)})
    with pytest.raises(DataError, match=r"would unpack to 104,857,600 bytes; .* archive bomb"):
        import_data([str(archive)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_member_that_is_larger_than_declared_is_not_read_on(tmp_path, rng):
    files = good_files(rng, 10) | {"a/liar.png": bytes(2**20)}
    data = bytearray(write_zip(tmp_path / "x.zip", files).read_bytes())
    place = data.rindex(b"a/liar.png")
    data[place - 22 : place - 18] = (10).to_bytes(4, "little")
    (tmp_path / "x.zip").write_bytes(data)
    report = import_data([str(tmp_path / "x.zip")], tmp_path / "out", allow_rejected=True)
    assert report.rejected == 1
    assert "a/liar.png" in (tmp_path / "out" / "rejected.csv").read_text()


def test_too_many_members_are_refused(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(containers, "MEMBERS", 5)
    archive = write_zip(tmp_path / "x.zip", good_files(rng, 6))
    with pytest.raises(DataError, match="6 members; at most 5"):
        import_data([str(archive)], tmp_path / "out")


def test_encrypted_member_is_listed(tmp_path, rng):
    archive = write_zip(tmp_path / "x.zip", good_files(rng))
    data = bytearray(archive.read_bytes())
    place = data.rindex(b"a/298.png") - 46
    data[place + 8] |= 1
    archive.write_bytes(data)
    assert import_data([str(archive)], tmp_path / "out").rejected == 1
    assert "encrypted" in (tmp_path / "out" / "rejected.csv").read_text()


def test_file_that_is_no_zip_says_so(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="not a whole zip file"):
        import_data([str(tmp_path / "x.zip")], tmp_path / "out")


def tar_of(path, *members):
    with tarfile.open(path, "w:gz") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data) if data is not None else None)
    return path


def member(name, data, **attributes):
    info = tarfile.TarInfo(name)
    info.size = len(data or b"")
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, data


def test_tar_bomb_stops_while_it_unpacks(tmp_path):
    path = tar_of(tmp_path / "x.tar.gz", member("fer2013.csv", bytes(100 * 2**20)))
    with pytest.raises(DataError, match="unpacks to .* archive bomb|no CSV"):
        import_data([str(path)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_and_outside_names_in_a_tar_are_passed_over(tmp_path, fer_table):
    path = tar_of(
        tmp_path / "x.tar.gz",
        member("link.csv", None, type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("../evil.csv", fer_table.encode()),
        member("fer2013.csv", fer_table.encode()),
    )
    report = import_data([str(path)], tmp_path / "out")
    assert report.images["train"] == 35
    assert [note.split(": ")[1] for note in report.notes] == ["link.csv", "../evil.csv"]


def test_truncated_tar_says_so(tmp_path, fer_table):
    path = tar_of(tmp_path / "x.tar.gz", member("fer2013.csv", fer_table.encode() * 20))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="not a whole"):
        import_data([str(path)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_table_in_a_zip_says_so(tmp_path, fer_table):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fer2013.csv", fer_table * 1000)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="fer2013.csv cannot be read to its end .*CRC"):
        import_data([str(path)], tmp_path / "out", allow_rejected=True)
    assert not (tmp_path / "out").exists()


def test_a_zip_whose_directory_is_damaged_is_refused_or_read_without_the_member(tmp_path):
    """A member without a name, and one of a format version that does not exist."""
    path = write_zip(tmp_path / "x.zip", {"a.png": b"1", "b.png": b"2"})
    whole = path.read_bytes()
    entry = whole.index(b"PK\x01\x02")
    path.write_bytes(whole[: entry + 6] + b"\xff" + whole[entry + 7 :])
    with pytest.raises(DataError, match=r"x\.zip is not a whole zip file \(zip file version 25.5"):
        Zip(path)
    path.write_bytes(whole.replace(b"a.png", b"\0.png"))
    archive = Zip(path)
    assert archive.names == ["b.png"] and archive.refused == [("", "no usable name")]
    archive.close()
