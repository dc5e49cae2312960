"""Memory: what a step will take, what it took, and what would have fitted where it ran out."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_runs import make_config, make_dataset

from raysearch.config import TrainConfig
from raysearch.train import memory
from raysearch.train.distributed import Workers
from raysearch.train.loop import Training
from raysearch.train.memory import (
    MemoryMeter,
    MemoryUse,
    fitting_batch_size,
    foreseen_bytes,
    is_out_of_memory,
    remedy,
)

CPU, GPU = torch.device("cpu"), torch.device("cuda")
MIB, GIB = 2**20, 2**30


def raised(work) -> BaseException:
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        work()
    return caught.value


def test_what_torch_and_python_raise_for_too_much_is_out_of_memory():
    assert is_out_of_memory(raised(lambda: torch.empty(2**60, dtype=torch.uint8)))
    assert is_out_of_memory(raised(lambda: bytearray(2**62)))
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"))
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))


def test_other_errors_are_not():
    assert not is_out_of_memory(raised(lambda: torch.zeros(2) @ torch.zeros(3)))
    assert not is_out_of_memory(ValueError("CUDA out of memory"))


def test_fitting_batch_size_by_hand():
    # 16 images took 320 MiB beside 100 MiB: 20 each. 0.9 of 1 GiB leaves 821.6 for 41 of them.
    assert fitting_batch_size(16, 100 * MIB, 420 * MIB, 1024 * MIB, 128) == 40
    assert fitting_batch_size(16, 100 * MIB, 420 * MIB, 200 * MIB, 128) == 4
    assert fitting_batch_size(16, 100 * MIB, 420 * MIB, 100 * MIB, 128) == 0


@given(
    images=st.integers(1, 64),
    fixed=st.integers(0, 2**34),
    grown=st.integers(0, 2**34),
    available=st.integers(0, 2**36),
    batch_size=st.integers(2, 4096),
)
def test_fitting_batch_size_is_below_the_failed_one_and_fits(
    images, fixed, grown, available, batch_size
):
    fits = fitting_batch_size(images, fixed, fixed + grown, available, batch_size)
    assert 0 <= fits < batch_size
    assert fits < 8 or fits % 8 == 0
    if fits:
        assert fixed + fits * grown / images <= 0.9 * available * (1 + 1e-9)


def test_on_a_cpu_half_the_batch_is_proposed():
    config = make_config(batch_size=32)
    assert remedy(config, make_dataset(), CPU, Workers()) == "Try batch_size 16."
    assert remedy(config, make_dataset(), GPU, Workers(0, 2)) == "Try batch_size 16."


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        ((100 * MIB, 140 * MIB, 500 * MIB), "batch_size 24 would likely fit: an image takes 10.0"),
        ((100 * MIB, 140 * MIB, 100 * MIB), "Take a smaller network or image_size: no batch"),
        (torch.OutOfMemoryError("CUDA out of memory"), "Not even 4 images fit"),
    ],
)
def test_on_a_gpu_a_small_step_is_measured(monkeypatch, measured, said):
    def measure(config, dataset, device, images):
        assert images == 4
        if isinstance(measured, Exception):
            raise measured
        return measured

    monkeypatch.setattr(memory, "measure_step", measure)
    assert said in remedy(make_config(batch_size=32), make_dataset(), GPU, Workers())


def test_step_is_measured_after_one_that_makes_the_optimizers_state(monkeypatch):
    """The allocator's counters are stand-ins, the steps are real."""
    calls, step = [], Training._step

    def watched(self, images, labels, draws):
        calls.append(len(images))
        return step(self, images, labels, draws)

    monkeypatch.setattr(Training, "_step", watched)
    counters = {"memory_allocated": 7, "max_memory_allocated": 9, "memory_reserved": 30}
    for name, value in counters.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, v=value, n=name: calls.append(n) or v)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: calls.append("reset"))
    state = torch.get_rng_state()
    config = make_config("vgg", batch_size=64, compile=True)
    assert memory.measure_step(config, make_dataset(), CPU, 8) == (7, 9, 130)
    expected = [8, "memory_allocated", "reset", 8, "max_memory_allocated", "memory_reserved"]
    assert calls == expected
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_measured_step_grows_with_its_images():
    config, dataset = make_config("vgg", batch_size=64), make_dataset()
    small, large = (memory.measure_step(config, dataset, GPU, images) for images in (8, 64))
    assert small[1] - small[0] < large[1] - large[0] < large[2]


def mlp_bytes(images, inputs, hidden, classes, moments):
    """By hand: each linear layer keeps its input, and ReLU its output, which is the next one's."""
    kept = images * (inputs + hidden)
    weights = (inputs + 1) * hidden + (hidden + 1) * classes
    return 4 * (kept + (3 + moments) * weights)


@pytest.mark.parametrize(("optimizer", "moments"), [("sgd", 1), ("adamw", 2)])
def test_what_a_step_keeps_is_counted_as_by_hand(optimizer, moments):
    values = {"model": {"name": "mlp", "hidden": [50], "dropout": 0}, "image_size": 8}
    config = TrainConfig.model_validate(values | {"batch_size": 64, "optimizer": optimizer})
    assert foreseen_bytes(config, 1, 7) == mlp_bytes(64, 64, 50, 7, moments)


def test_frozen_layers_keep_less_and_large_batches_more():
    config = make_config("vgg", batch_size=64)
    whole = foreseen_bytes(config, 1, 7)
    frozen = foreseen_bytes(config.model_copy(update={"freeze_depth": 3}), 1, 7)
    double = foreseen_bytes(config.model_copy(update={"batch_size": 128}), 1, 7)
    assert frozen < whole < double < 2 * whole


def test_shapes_do_where_values_are_not_needed_and_draw_nothing_where_they_are():
    assert memory.from_shapes(lambda: torch.rand(3)).is_meta
    state = torch.get_rng_state()
    value = memory.from_shapes(lambda: torch.rand(3).max().item())  # of meta tensors an error
    assert 0 <= value < 1
    assert torch.equal(torch.get_rng_state(), state)


def test_meter_keeps_a_trial_to_its_share_and_says_what_it_took(monkeypatch):
    """The allocator is a stand-in: 10 GiB of 80 hold the images, and the step takes 20."""
    limits, allocated = [], {"now": 10 * GIB, "peak": 30 * GIB}
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda d: SimpleNamespace(total_memory=80 * GIB)
    )
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, d: limits.append((share, d))
    )
    monkeypatch.setattr(
        torch.cuda,
        "reset_peak_memory_stats",
        lambda d: allocated.update(before=allocated["peak"], peak=allocated["now"]),
    )
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda d: allocated["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda d: allocated["peak"])
    meter = MemoryMeter(GPU, 0.5)
    assert limits == [(0.5 - 640 * MIB / (80 * GIB), None)]  # torch takes no device without index
    assert meter.read() is None  # nothing was trained yet
    allocated["peak"] = 30 * GIB
    assert meter.read() == MemoryUse(10 * GIB, 30 * GIB, 80 * GIB)
    MemoryMeter(torch.device("cuda", 1), 1.0)
    assert limits[1] == (1.0, 1)


def test_on_a_cpu_there_is_nothing_to_share_out():
    assert MemoryMeter(CPU, 0.5).read() is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpus_memory_is_measured_and_kept_to_the_share():
    try:
        meter = MemoryMeter(GPU, 0.5)
        kept = torch.empty(256 * MIB, dtype=torch.uint8, device=GPU)
        use = meter.read()
        assert use.peak - use.fixed >= len(kept)
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(int(0.6 * use.device), dtype=torch.uint8, device=GPU)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_a_step_takes_grows_as_foreseen():
    """Twice the network or batch, about twice what is foreseen and measured."""
    config, dataset, ratios = make_config("vgg", batch_size=64), make_dataset(), []
    for images in (64, 128, 256):
        larger = config.model_copy(update={"batch_size": images})
        fixed, peak, _ = memory.measure_step(larger, dataset, GPU, images)
        ratios.append((peak - fixed) / foreseen_bytes(larger, 1, 7))
    assert max(ratios) < 1.5 * min(ratios)
