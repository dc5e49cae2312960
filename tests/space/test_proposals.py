"""Laws of a space: proposals lie in range, obey conditions, and build valid configurations."""

import itertools

import numpy as np
import pytest
import torch
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from raysearch.config import TrainConfig
from raysearch.errors import ConfigError
from raysearch.models.registry import BUILDERS, build_model
from raysearch.space import load_space

NUMBERS = {  # field: (low, high) of what it may be, and whether it is a whole number
    "lr": (1e-4, 10.0, False),
    "weight_decay": (1e-6, 1.0, False),
    "label_smoothing": (0.0, 0.9, False),
    "l2": (0.0, 1.0, False),
    "mixup": (0.0, 2.0, False),
    "cutmix": (0.0, 2.0, False),
    "balance_strength": (0.0, 1.5, False),
    "early_stopping": (0, 9, True),
    "batch_size": (2, 4096, True),
    "augment.shift": (0.0, 1.0, False),
    "augment.rotate": (0.0, 180.0, True),
    "augment.noise": (0.001, 1.0, False),
}
CHOICES = {
    "model.name": ["vgg", "mlp"],
    "optimizer": ["sgd", "adamw", "muon"],
    "normalize": ["dataset", "per_image"],
    "schedule": ["cosine", "one_cycle", "plateau"],
    "balance": ["none", "oversample", "weighted_loss"],
}


@st.composite
def ranges(draw, low, high, whole):
    """A random dimension within [low, high], as written in YAML."""
    if whole:
        a, b = sorted(draw(st.lists(st.integers(int(low), int(high)), min_size=2, max_size=2)))
        kind, b = "int", max(a + 1, b) if a < high else b
        a = min(a, b - 1)
        step = draw(st.none() | st.integers(1, b - a))
        b = b if step is None else a + (b - a) // step * step
    else:
        a, b = sorted(draw(st.lists(st.floats(low, high), min_size=2, max_size=2)))
        assume(b - a > 1e-6)
        kind, steps = "float", draw(st.none() | st.integers(1, 7))
        step = None if steps is None else (b - a) / steps
    entry = {kind: [a, b]}
    if step is not None:
        return entry | {"step": step}
    return entry | ({"log": True} if a > 0 and draw(st.booleans()) else {})


@st.composite
def spaces(draw):
    """The ``train:`` part of a random space, by dotted field; each is valid by construction."""
    train = {"model.name": {"choice": CHOICES["model.name"]}}
    parents = {"model.name": CHOICES["model.name"]}
    for path in draw(st.lists(st.sampled_from(list(CHOICES)[1:]), unique=True)):
        train[path] = {"choice": CHOICES[path]} | draw(conditions(parents))
        parents[path] = CHOICES[path]
    for path in draw(st.lists(st.sampled_from(list(NUMBERS)), unique=True)):
        shape = draw(st.sampled_from(["range", "value", "constant", "alternatives"]))
        values = ranges(*NUMBERS[path])
        if shape == "range":
            train[path] = draw(values) | draw(conditions(parents))
        elif shape == "value":
            train[path] = {"value": NUMBERS[path][1]} | draw(conditions(parents))
        elif shape == "constant":
            train[path] = NUMBERS[path][0]
        else:
            parent = draw(st.sampled_from(list(parents)))
            train[path] = [draw(values) | {"when": {parent: v}} for v in parents[parent]]
    names = draw(st.permutations(list(train)))
    return {name: train[name] for name in names}


@st.composite
def conditions(draw, parents):
    if not draw(st.booleans()):
        return {}
    parent = draw(st.sampled_from(list(parents)))
    return {"when": {parent: draw(st.sampled_from(parents[parent]))}}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    path = tmp_path_factory.mktemp("spaces") / "space.yaml"

    def load(train, **sections):
        path.write_text(yaml.safe_dump({"train": train, **sections}, sort_keys=False))
        return load_space(path)

    return load


@pytest.mark.parametrize("name", BUILDERS)
def test_dropout_of_every_network_of_our_own_can_be_searched(load, name):
    space = load({"model": {"name": name, "dropout": {"float": [0.1, 0.5]}}})
    config = space.build({"model.dropout": 0.37}, epochs=1, seed=0)
    with torch.device("meta"):
        network = build_model(config.model, 1, 7, config.image_size)
    kinds = (nn.Dropout, nn.Dropout2d)
    assert 0.37 in {layer.p for layer in network.modules() if isinstance(layer, kinds)}


@settings(max_examples=60, deadline=None)
@given(train=spaces(), seed=st.integers(0, 2**32))
def test_every_proposal_is_in_range_obeys_conditions_and_builds(load, train, seed):
    space, rng = load(train), np.random.default_rng(seed)
    by_name = {dimension.name: dimension for dimension in space.dimensions}
    assert len(by_name) == len(space.dimensions)
    for _ in range(5):
        values = space.propose(lambda dimension: dimension.draw(rng))
        config = space.build(values, epochs=3, seed=7, where="trial 1").model_dump()
        assert (config["epochs"], config["seed"]) == (3, 7)
        set_fields = space.settings(values)
        for name, value in values.items():
            assert by_name[name].contains(value)
        for dimension in space.dimensions:
            applies = all(
                set_fields.get(condition.path) in condition.values for condition in dimension.when
            )
            if dimension.kind != "value":
                assert (dimension.name in values) == applies
            if applies:
                wanted = dimension.value if dimension.kind == "value" else values[dimension.name]
                assert field(config, dimension.path) == wanted
        defaults = TrainConfig(model="vgg").model_dump()
        for path in (*CHOICES, *NUMBERS):
            if path not in set_fields:
                assert field(config, path) == field(defaults, path)


def field(config, path):
    for part in path.split("."):
        config = config[part]
    return config


@settings(max_examples=40, deadline=None)
@given(train=spaces(), data=st.data())
def test_fingerprint_ignores_order_and_sees_every_change(load, train, data):
    space = load(train)
    shuffled = load({name: train[name] for name in data.draw(st.permutations(list(train)))})
    assert shuffled.fingerprint == space.fingerprint and space.diff(shuffled) == []
    extra = load({**train, "warmup": 0.31})
    assert extra.fingerprint != space.fingerprint
    assert space.diff(extra) == ["warmup is added"] and extra.diff(space) == ["warmup is removed"]
    path = data.draw(st.sampled_from(list(train)))
    assume(path not in CHOICES)
    lost = load({name: train[name] for name in train if name != path})
    assert all(line.endswith(" is removed") for line in space.diff(lost)) and space.diff(lost)


@settings(max_examples=30, deadline=None)
@given(train=spaces(), seed=st.integers(0, 2**32))
def test_any_proposal_can_be_given_as_known(load, train, seed):
    space, rng = load(train), np.random.default_rng(seed)
    values = space.propose(lambda dimension: dimension.draw(rng))
    again = load(train, known=[space.settings(values)])
    assert again.known_values[0] == pytest.approx(values)


@settings(max_examples=80, deadline=None)
@given(
    whens=st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "batch_size": st.sets(st.sampled_from([2, 4, 8]), min_size=1),
                "image_size": st.sets(st.integers(16, 19), min_size=1),
                "normalize": st.sets(st.sampled_from(["dataset", "per_image"]), min_size=1),
            },
        ).filter(len),
        min_size=2,
        max_size=3,
        unique_by=str,
    )
)
def test_overlap_of_alternatives_agrees_with_brute_force(load, whens):
    parents = {
        "batch_size": [2, 4, 8],
        "image_size": [16, 17, 18, 19],
        "normalize": ["dataset", "per_image"],
    }
    combinations = [
        dict(zip(parents, v, strict=True)) for v in itertools.product(*parents.values())
    ]
    overlap = any(
        sum(all(c[path] in allowed for path, allowed in when.items()) for when in whens) > 1
        for c in combinations
    )
    train = {
        "model": "mlp",
        "batch_size": {"choice": [2, 4, 8]},
        "image_size": {"int": [16, 19]},
        "normalize": {"choice": ["dataset", "per_image"]},
        "lr": [
            {"value": 1.0, "when": {path: sorted(allowed) for path, allowed in when.items()}}
            for when in whens
        ],
    }
    if overlap:
        with pytest.raises(ConfigError, match="can apply at once|have the same when"):
            load(train)
    else:
        load(train)


@pytest.fixture
def space(load):
    return load(
        {
            "model": {
                "name": {"choice": ["vgg", "mlp"]},
                "hidden": {"choice": [[64], [64, 32]], "when": {"model.name": "mlp"}},
                "width": {"int": [4, 8], "step": 2, "when": {"model.name": "vgg"}},
            },
            "lr": {"float": [0.01, 1], "log": True},
            "batch_size": 16,
        },
        known=[{"model": "mlp", "model.hidden": [64, 32]}, {"lr": 1, "batch_size": 16}],
    )


def test_a_list_is_one_choice_that_a_sampler_sees_as_text(space):
    hidden = next(d for d in space.dimensions if d.path == "model.hidden")
    assert hidden.choices == ("[64]", "[64, 32]")
    config = space.build(
        {"model.name": "mlp", "model.hidden": "[64, 32]", "lr": 0.1}, epochs=1, seed=0
    )
    assert config.model.options == {"hidden": [64, 32]}


def test_known_configurations_are_by_dimension_without_constants(space):
    assert space.known_values == ({"model.name": "mlp", "model.hidden": "[64, 32]"}, {"lr": 1.0})


@pytest.mark.parametrize(
    "values, message",
    [
        ({"model.name": "mlp", "model.hidden": "[64]"}, "trial 3: lr has no value."),
        (
            {"lr": 0.1, "model.name": "cnn"},
            "trial 3: model.name must be one of vgg, mlp, not 'cnn'.",
        ),
        ({"lr": 9.0}, "trial 3: lr must be from 0.01 to 1.0, log, not 9.0."),
        ({"model.width": 5}, "trial 3: model.width must be from 4 to 8, step 2, not 5."),
        ({"model.width": 6.0}, "trial 3: model.width must be from 4 to 8, step 2, not 6.0."),
        ({"model.hidden": "[64]"}, "trial 3: model.hidden does not apply here."),
        (
            {"model.wdth": 1},
            "trial 3: model.wdth is not a dimension (did you mean 'model.width'?).",
        ),
    ],
)
def test_values_that_cannot_be_proposed_are_named(space, values, message):
    full = {"model.name": "vgg", "model.width": 4, "lr": 0.1} | values
    if "model.hidden" in values and "model.name" in values:
        full = values
    with pytest.raises(ConfigError) as error:
        space.build(full, epochs=1, seed=0, where="trial 3")
    assert str(error.value) == message


def test_rounding_beyond_the_last_step_is_pulled_back(load):
    space = load({"model": "mlp", "augment.shift": {"float": [0.7, 1.0], "step": 0.1}})
    over = 0.7 + 0.1 + 0.1 + 0.1
    assert over > 0.9999
    config = space.build({"augment.shift": max(over, 1.0000000000000002)}, epochs=1, seed=0)
    assert config.augment.shift == 1.0


def test_changed_dimension_is_described(load, space):
    other = load({"model": "vgg", "lr": {"float": [0.01, 2]}, "batch_size": 32})
    assert load({"model": "vgg", "lr": {"float": [0.01, 1], "log": True}}).diff(other) == [
        "batch_size is added",
        'lr is float {"low": 0.01, "high": 2.0}, was float {"low": 0.01, "high": 1.0, "log": true}',
    ]


def test_draws_are_even_on_their_scale(load):
    space = load(
        {
            "model": "mlp",
            "lr": {"float": [1e-4, 1], "log": True},
            "batch_size": {"int": [2, 8], "log": True},
            "augment.rotate": {"int": [0, 9], "step": 3},
        }
    )
    rng = np.random.default_rng(0)
    drawn = [space.propose(lambda d: d.draw(rng)) for _ in range(4000)]
    exponents = np.log10([values["lr"] for values in drawn])
    assert np.histogram(exponents, bins=4, range=(-4, 0))[0] == pytest.approx(1000, abs=110)
    rotations, counts = np.unique([v["augment.rotate"] for v in drawn], return_counts=True)
    assert list(rotations) == [0, 3, 6, 9] and counts == pytest.approx(1000, abs=110)
    sizes, counts = np.unique([v["batch_size"] for v in drawn], return_counts=True)
    edges = np.log(np.arange(2, 10) - 0.5)
    expected = 4000 * np.diff(edges) / (edges[-1] - edges[0])
    assert list(sizes) == list(range(2, 9)) and counts == pytest.approx(expected, abs=120)


def test_fewer_epochs_lower_the_first_rung(load):
    search = load({"model": "mlp"}, search={"epochs": 20, "grace_epochs": 3}).search
    assert search.replaced(epochs=2, trials=None).grace_epochs == 2
    assert search.replaced(epochs=9, trials=5).model_dump() == search.model_dump() | {
        "epochs": 9,
        "trials": 5,
    }


@pytest.mark.parametrize("text, seconds", [("90s", 90), ("60m", 3600), ("1.5h", 5400)])
def test_time_budget_has_a_unit(load, text, seconds):
    assert load({"model": "mlp"}, search={"time_budget": text}).search.time_budget == seconds
