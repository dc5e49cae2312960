"""Training on images that stay on the host, against the same run with them on the device."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_runs import (
    MODELS,
    Stopped,
    assert_bitwise_equal,
    make_config,
    make_dataset,
    run_fit,
    stop_after,
    timeless,
    weights,
)

from raysearch.data.dataset import Dataset
from raysearch.data.feeding import HostImages
from raysearch.errors import DataError
from raysearch.train.distributed import Workers
from raysearch.train.evaluate import predict_probs
from raysearch.train.loop import Training, fit

AUGMENTED = {"augment": {"mirror": 0.5, "shift": 0.1, "erase": 0.2}, "mixup": 0.2}


class Source:
    """Images on a disk that fails at one row of the training split, and notes what is read."""

    def __init__(self, images_NCHW: torch.Tensor, broken: int | None = None):
        self.images_NCHW, self.broken = images_NCHW.numpy(), broken
        self.shape, self.reads = images_NCHW.shape, []

    def __len__(self) -> int:
        return len(self.images_NCHW)

    def __getitem__(self, rows) -> np.ndarray:
        numbers = np.arange(len(self))[rows]
        self.reads.append(len(numbers))
        if self.broken in numbers:
            raise DataError("train-00003.arrow is not a whole Arrow file")
        return self.images_NCHW[rows]


def on_host(dataset: Dataset, **options) -> tuple[Dataset, Source, Source]:
    """``dataset`` with its images behind sources, and these."""
    train = Source(dataset.train.images_NCHW, **options)
    validation = Source(dataset.validation.images_NCHW)
    fed = replace(
        dataset,
        train=replace(dataset.train, images_NCHW=HostImages(train)),
        validation=replace(dataset.validation, images_NCHW=HostImages(validation)),
    )
    assert (dataset.images_on, fed.images_on) == ("device", "host")
    return fed, train, validation


@pytest.mark.parametrize("model", MODELS)
def test_curves_and_weights_are_bitwise_those_of_images_on_the_device(model):
    config, dataset = make_config(model, **AUGMENTED), make_dataset()
    expected = run_fit(config, dataset)
    found = run_fit(config, on_host(dataset)[0])
    assert [timeless(end.metrics) for end in found] == [timeless(end.metrics) for end in expected]
    assert np.array_equal(found[-1].probs_VK, expected[-1].probs_VK)
    assert_bitwise_equal(weights(found[-1].training), weights(expected[-1].training))


def test_run_begun_on_the_device_goes_on_from_the_host():
    config, dataset = make_config(**AUGMENTED), make_dataset()
    states = []
    whole = run_fit(config, dataset)
    with pytest.raises(Stopped):
        fit(config, dataset, stop_after(2, lambda end: states.append(end.training.state_dict())))
    rest = run_fit(config, on_host(dataset)[0], resume=states[0])
    assert [timeless(end.metrics) for end in rest] == [timeless(whole[-1].metrics)]


def test_only_batches_are_read_of_training_and_of_validation():
    dataset, train, validation = on_host(make_dataset(train=96, validation=600))
    run_fit(make_config(epochs=2, batch_size=16), dataset)
    assert train.reads == [16] * 12
    assert max(validation.reads) == 256 and sum(validation.reads) == 2 * 600


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_workers_share_validation_images_that_are_fed(ranks):
    dataset, _, source = on_host(make_dataset())
    training = Training(make_config(), dataset, torch.device("cpu"), Workers())
    parts = []
    for rank in range(ranks):
        share = Workers(rank, ranks).share(dataset.validation.images_NCHW)
        parts.append(predict_probs(training.network, training.preprocess, share))
    whole = predict_probs(
        training.network, training.preprocess, make_dataset().validation.images_NCHW
    )
    for rank, part in enumerate(parts):
        torch.testing.assert_close(part, whole[rank::ranks], atol=1e-6, rtol=0)
    assert sum(source.reads) == len(dataset.validation)


def test_failed_read_is_the_users_error_and_leaves_no_thread():
    before = threading.active_count()
    with pytest.raises(DataError, match="train-00003.arrow is not a whole"):
        run_fit(make_config(), on_host(make_dataset(), broken=50)[0])
    assert threading.active_count() == before


@pytest.mark.parametrize("stop", [KeyboardInterrupt, torch.OutOfMemoryError])
@pytest.mark.parametrize("part", ["step", "validation"])
def test_run_that_is_stopped_in_mid_epoch_leaves_no_thread(monkeypatch, part, stop):
    before, running = threading.active_count(), []

    def interrupt(*arguments, **options):
        running.append(threading.active_count() - before)
        raise stop

    with monkeypatch.context() as patch, pytest.raises(stop):
        if part == "step":
            patch.setattr(Training, "_step", interrupt)
        else:
            patch.setattr("raysearch.models.preprocess.Preprocess.forward", interrupt)
        run_fit(make_config(), on_host(make_dataset())[0])
    assert running == [1]
    assert threading.active_count() == before
