import pytest

from raysearch.data.dataset import load_dataset
from raysearch.errors import ConfigError
from raysearch.search.capacity import Capacity, Machine
from raysearch.search.plan import estimate, make_plan


def machine(cpus, gpus):
    return Capacity((Machine(cpus, gpus),), 1)


def test_without_a_gpu_every_core_gets_a_trial(write_space):
    plan = make_plan(write_space(trials=8), machine(4, 0))
    assert (plan.concurrent, plan.threads, plan.executor) == (4, 1, "inline")
    assert plan.resources == {"cpu": 1.0, "gpu": 0.0}


def test_fewer_trials_than_cores_share_the_cores(write_space):
    plan = make_plan(write_space(), machine(8, 0), trials=2)
    assert (plan.concurrent, plan.threads) == (2, 4)


@pytest.mark.parametrize(("share", "concurrent"), [(None, 2), (0.25, 8), (0.1, 20), (2, 1)])
def test_gpus_are_shared_by_the_fraction_asked_for(write_space, share, concurrent):
    space = write_space(trials=50)
    plan = make_plan(space, machine(16, 2), gpus_per_trial=share)
    assert plan.concurrent == concurrent
    assert plan.resources["gpu"] == (share or 1.0)
    assert plan.resources["cpu"] * plan.concurrent <= 16


def test_auto_plans_for_as_many_on_a_gpu_as_have_a_core_each(write_space):
    space = write_space(trials=50)
    plan = make_plan(space, machine(16, 2), gpus_per_trial="auto")
    assert (plan.packed_gpus, plan.slots, plan.concurrent, plan.threads) == (2, 2, 16, 1)
    assert (plan.resources["gpu"], plan.memory_share) == (0.125, 0.125)
    plan = make_plan(space, machine(12, 4), gpus_per_trial="auto")
    assert (plan.concurrent, plan.resources["gpu"]) == (12, 0.3333)
    plan = make_plan(space, machine(4, 0), gpus_per_trial="auto")  # nothing to pack
    assert (plan.packed_gpus, plan.slots, plan.concurrent) == (0, 4, 4)


def test_memory_is_shared_by_those_on_the_same_device(write_space):
    space = write_space(trials=50)
    assert make_plan(space, machine(16, 2), gpus_per_trial=0.25).memory_share == 0.25
    assert make_plan(space, machine(16, 2), gpus_per_trial=2).memory_share == 1
    assert make_plan(space, machine(16, 2), workers_per_trial=4).memory_share == 0.25
    assert make_plan(space, machine(4, 0)).memory_share == 1 / 4
    assert make_plan(space, machine(4, 0), workers_per_trial=2).memory_share == 1 / 4


def test_several_workers_per_trial_take_ray_train(write_space):
    plan = make_plan(write_space(), machine(4, 0), workers_per_trial=2)
    assert (plan.executor, plan.concurrent, plan.backend) == ("train", 2, "gloo")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gpus_per_trial": 0.5}, "needs a GPU"),
        ({"gpus_per_trial": "auto", "workers_per_trial": 2}, "auto packs trials of one worker"),
        ({"workers_per_trial": 3}, "3 workers does not fit on 2 CPUs"),
        ({"workers_per_trial": 2, "executor": "inline"}, "one worker"),
    ],
)
def test_what_cannot_run_is_refused_with_the_reason(write_space, options, said):
    with pytest.raises(ConfigError, match=said):
        make_plan(write_space(), machine(2, 0), **options)


def test_estimate_counts_every_image_and_scales_with_the_epochs(write_space, shards_folder):
    space, dataset = write_space(), load_dataset(shards_folder)
    short = estimate(space, make_plan(space, machine(1, 0), epochs=1), dataset, seed=0)
    plan = make_plan(space, machine(1, 0), epochs=100)
    long = estimate(space, plan, dataset, seed=0)
    assert long.images == 100 * short.images == 192 * 4 * 100
    assert long.seconds > 10 * short.seconds > 0
    assert long.disk_bytes == short.disk_bytes > 4 * 60 * 3 * 2


def test_every_machine_of_a_cluster_gets_what_fits_on_it(write_space):
    """A fraction of a GPU lies on one GPU, and a machine without one takes no trial."""
    machines = (Machine(8, 2), Machine(4, 1), Machine(16, 0))
    space = write_space(trials=50)
    plan = make_plan(space, Capacity(machines, 3), gpus_per_trial=0.4)
    assert (plan.concurrent, plan.machines) == (6, 2)  # two on each GPU, though 3 / 0.4 is 7.5
    assert (plan.threads, plan.resources) == (2, {"cpu": 2.0, "gpu": 0.4})


def test_few_trials_take_all_cores_of_the_machines_they_are_spread_over(write_space):
    capacity = Capacity((Machine(4, 0), Machine(4, 0)), 1)
    plan = make_plan(write_space(), capacity, trials=2)
    assert (plan.concurrent, plan.threads, plan.resources["cpu"]) == (2, 4, 4.0)
    assert plan.memory_share == 1
