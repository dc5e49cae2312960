"""Images fed from the host against the same images on the device."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raysearch.data import dataset as datasets
from raysearch.data.dataset import channel_statistics, load_dataset, load_split
from raysearch.data.feeding import HostImages, fed, in_slices
from raysearch.data.reading import Split
from raysearch.data.shards import open_shards, write_shards
from raysearch.errors import RunError


class Recorder:
    """Images that note how many rows each read asks for, and can fail at a row."""

    def __init__(self, images_NCHW: np.ndarray, broken: int | None = None):
        self.images_NCHW, self.broken = images_NCHW, broken
        self.shape, self.reads = images_NCHW.shape, []

    def __len__(self) -> int:
        return len(self.images_NCHW)

    def __getitem__(self, rows) -> np.ndarray:
        numbers = np.arange(len(self))[rows]
        self.reads.append(len(numbers))
        if self.broken in numbers:
            raise OSError(f"the disk failed at row {self.broken}")
        return self.images_NCHW[rows]


@pytest.fixture
def images(rng) -> np.ndarray:
    images = rng.integers(0, 256, (50, 3, 6, 5), dtype=np.uint8)
    images.flags.writeable = False  # as a memory map is
    return images


@given(st.integers(1, 30), st.integers(1, 4), st.integers(1, 12), st.integers(0, 99))
def test_rows_views_and_slices_are_the_tensors(count, step, size, seed):
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 256, (count, 1, 2, 2), dtype=np.uint8)
    tensor, host = torch.from_numpy(array), HostImages(array)
    start = int(rng.integers(step))
    for shared, view in ((tensor, host), (tensor[start::step], host[start::step])):
        assert (len(view), view.shape) == (len(shared), tuple(shared.shape))
        batches = [torch.from_numpy(rng.integers(0, len(shared), size)) for _ in range(len(shared))]
        batches += in_slices(len(shared), size)
        with fed(view, batches) as found, fed(shared, batches) as expected:
            for left, right in zip(found, expected, strict=True):
                assert torch.equal(left, right)
        if len(shared):
            assert torch.equal(view[batches[0]], shared[batches[0]])


@given(st.integers(0, 40), st.integers(1, 50))
def test_slices_cover_every_row_once(count, size):
    rows = [row for part in in_slices(count, size) for row in range(count)[part]]
    assert rows == list(range(count))
    assert all(part.stop - part.start <= size for part in in_slices(count, size))


def test_batches_may_be_written_to_and_the_source_stays_as_it_is(images):
    before = images.copy()
    with fed(HostImages(images), in_slices(50, 20)) as batches:
        for batch in batches:
            batch.zero_()
    assert np.array_equal(images, before)


def test_at_most_two_batches_are_read_ahead(images):
    source = Recorder(images)
    with fed(HostImages(source), in_slices(50, 5)) as batches:
        for position, _ in enumerate(batches):
            assert len(source.reads) <= position + 3
    assert source.reads == [5] * 10


def test_failed_read_is_raised_in_its_turn_and_leaves_no_thread(images):
    before, seen = threading.active_count(), 0
    with pytest.raises(OSError, match="failed at row 33"):
        with fed(HostImages(Recorder(images, broken=33)), in_slices(50, 10)) as batches:
            for _ in batches:
                seen += 1
    assert seen == 3
    assert threading.active_count() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_images_reach_a_gpu_whole_while_it_computes(rng):
    array = rng.integers(0, 256, (600, 3, 64, 64), dtype=np.uint8)
    rows = [torch.from_numpy(rng.integers(0, 600, 256)) for _ in range(40)]
    busy = torch.randn(4096, 4096, device="cuda")
    with fed(HostImages(array, "cuda"), rows) as batches:
        for picked, batch in zip(rows, batches, strict=True):
            busy = (busy @ busy).clamp(-1, 1)
            assert batch.is_cuda and torch.equal(batch.cpu(), torch.from_numpy(array)[picked])


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
def test_block_that_is_left_in_the_middle_leaves_no_thread(images, stop):
    before = threading.active_count()
    with pytest.raises(stop):
        with fed(HostImages(images), in_slices(50, 5)) as batches:
            next(iter(batches))
            assert threading.active_count() == before + 1
            raise stop
    assert threading.active_count() == before


def test_statistics_are_the_same_and_read_in_chunks(images, monkeypatch):
    monkeypatch.setattr(datasets, "CHUNK_BYTES", 8 * 3 * 6 * 5)
    source = Recorder(images)
    assert channel_statistics(HostImages(source)) == channel_statistics(torch.tensor(images))
    assert source.reads == [8] * 6 + [2]


@pytest.fixture
def folder(tmp_path, images, rng):
    rows = {"train": np.arange(30), "validation": np.arange(30, 50)}
    names = [f"{row}.png" for row in range(50)]
    labels = rng.integers(0, 3, 50)
    write_shards(tmp_path, images, labels, names, rows, "abc", {}, rows_per_shard=8)
    return tmp_path


@pytest.mark.parametrize("classes", [None, ("c", "a")])
def test_set_on_the_host_is_the_set_on_the_device(folder, classes):
    device = load_dataset(folder, classes=classes, images_on="device")
    host = load_dataset(folder, classes=classes, images_on="host")
    assert (device.images_on, host.images_on) == ("device", "host")
    assert (device.mean, device.std, device.fingerprint) == (host.mean, host.std, host.fingerprint)
    assert device.image_bytes == host.image_bytes
    for name in ("train", "validation"):
        left, right = getattr(device, name), getattr(host, name)
        assert torch.equal(left.labels_N, right.labels_N) and left.digest == right.digest
        rows = list(torch.randperm(len(left)).split(7))
        with left.batches(rows) as expected, right.batches(rows) as found:
            for (images, labels), (others, theirs) in zip(expected, found, strict=True):
                assert torch.equal(images, others) and torch.equal(labels, theirs)


def test_set_that_does_not_fit_on_the_device_says_what_to_set(folder, monkeypatch):
    huge = np.broadcast_to(np.uint8(0), (10**9, 3, 1000, 1000))
    monkeypatch.setattr(Split, "images_NCHW", property(lambda split: huge))
    split = open_shards(folder).split("train")
    with pytest.raises(RunError, match=r"3,000,000.0 GB\) do not fit on cpu.*set it to host"):
        load_split(split, torch.device("cpu"), "device")
    assert len(load_split(split, torch.device("cpu"), "host").images_NCHW) == 10**9


@pytest.mark.parametrize("images_on", ["device", "host"])
def test_set_is_never_read_whole(folder, monkeypatch, images_on):
    """Several shards: not on opening, for the statistics, nor on the way to the device."""
    reads, read = [], Split.images_NCHW.func

    class Lazy(Recorder):
        def __init__(self, split):
            super().__init__(read(split))
            self.reads = reads

    monkeypatch.setattr(datasets, "CHUNK_BYTES", 4 * 3 * 6 * 5)
    monkeypatch.setattr(Split, "images_NCHW", property(Lazy))
    load_dataset(folder, images_on=images_on)
    copied = [4] * 7 + [2] + [4] * 5
    assert reads == [4] * 7 + [2] + (copied if images_on == "device" else [])
