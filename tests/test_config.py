import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysearch.config import AugmentConfig, TrainConfig, parse_train_config
from raysearch.errors import ConfigError

BROKEN = [
    ("image_size", 7),
    ("image_size", 1025),
    ("image_size", 48.5),
    ("normalize", "imagenet"),
    ("epochs", 0),
    ("batch_size", 1),
    ("optimizer", "rmsprop"),
    ("lr", 0.0),
    ("lr", -0.1),
    ("lr", "fast"),
    ("lr", float("inf")),
    ("schedule", "step"),
    ("plateau_patience", 0),
    ("plateau_factor", 1.0),
    ("warmup", 1.0),
    ("warmup", -0.1),
    ("weight_decay", -1e-4),
    ("label_smoothing", 1.0),
    ("l2", -1.0),
    ("mixup", -0.2),
    ("cutmix", -0.2),
    ("balance", "both"),
    ("balance_strength", 1.6),
    ("early_stopping", -1),
    ("ema", -1.0),
    ("ema", float("inf")),
    ("precision", "fp16"),
    ("compile", "fast"),
    ("seed", -1),
    ("images_on", "disk"),
    ("classes", ["happy"]),
    ("classes", ["happy", "sad", "happy"]),
    ("augment.mirror", 1.5),
    ("augment.shift", -0.1),
    ("augment.rotate", 181.0),
    ("augment.zoom", 1.0),
    ("augment.contrast", 1.0),
    ("augment.noise", -0.5),
    ("augment.erase", 1.01),
    ("augment.crop", 1.0),
    ("augment.shear", 90.0),
    ("augment.brightness", 1.5),
    ("augment.sharpen", -1.0),
    ("pretrained", 5),
    ("init_from", 5),
    ("freeze_depth", -1),
    ("augment", 3),
    ("model", 5),
]


def with_field(path: str, value) -> dict:
    values = {"model": "vgg"}
    *parts, last = path.split(".")
    inner = values
    for part in parts:
        inner = inner.setdefault(part, {})
    inner[last] = value
    return values


@pytest.mark.parametrize(("field", "value"), BROKEN)
def test_a_broken_rule_names_field_value_and_place(field, value):
    with pytest.raises(ConfigError) as caught:
        parse_train_config(with_field(field, value), "trial.yaml")
    message = str(caught.value)
    assert message.startswith("trial.yaml: ")
    assert field in message
    assert repr(value) in message


def test_every_field_with_a_rule_is_broken_above():
    fields = set(TrainConfig.model_fields) | {f"augment.{f}" for f in AugmentConfig.model_fields}
    assert fields == {field for field, _ in BROKEN}


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("field", ["lr", "mixup", "augment.noise"])
def test_numbers_must_be_finite(field, value):
    with pytest.raises(ConfigError, match=field):
        parse_train_config(with_field(field, value))


@pytest.mark.parametrize("l2", ["1e-4", None, [0.1], {"*": -1}, {"a": 1, "b": "x"}])
def test_l2_is_a_strength_or_maps_patterns_to_strengths(l2):
    with pytest.raises(ConfigError) as caught:
        parse_train_config({"model": "vgg", "l2": l2})
    assert "l2: l2 is a number of at least 0, or maps patterns" in str(caught.value)
    assert repr(l2) in str(caught.value)


def test_patterns_of_l2_keep_their_order():
    l2 = {"b.*": 0.1, "a.*": 0.2, "*": 0}
    config = parse_train_config({"model": "vgg", "l2": l2})
    again = parse_train_config(json.loads(json.dumps(config.model_dump(mode="json"))))
    assert list(again.l2.items()) == list(l2.items())


@pytest.mark.parametrize(
    ("field", "hint"),
    [
        ("learning_rates", "Known here: model, pretrained"),
        ("optimiser", "did you mean 'optimizer'?"),
        ("augment.rotat", "did you mean 'rotate'?"),
    ],
)
def test_an_unknown_field_gets_the_nearest_name(field, hint):
    with pytest.raises(ConfigError) as caught:
        parse_train_config(with_field(field, 1))
    assert repr(field) in str(caught.value)
    assert hint in str(caught.value)


def test_a_missing_network_is_named():
    with pytest.raises(ConfigError, match="the field 'model' is missing"):
        parse_train_config({"lr": 0.1})


@pytest.mark.parametrize("values", [None, [], "vgg", 3])
def test_what_is_no_mapping_is_shown(values):
    with pytest.raises(ConfigError) as caught:
        parse_train_config(values, "space.yaml")
    assert "space.yaml must be a mapping" in str(caught.value)
    assert repr(values) in str(caught.value)


def test_a_network_by_name_and_by_mapping_are_the_same():
    by_name = parse_train_config({"model": "vgg"})
    assert by_name == parse_train_config({"model": {"name": "vgg"}})
    assert by_name.model.options == {}


def test_options_of_the_network_are_kept_as_given():
    model = {"name": "mlp", "hidden": [64, 32], "dropout": 0.1}
    assert parse_train_config({"model": model}).model.options == {
        "hidden": [64, 32],
        "dropout": 0.1,
    }


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        parse_train_config({"model": "vgg"}).lr = 1.0


def numbers(low: float, high: float, **kwargs) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False, **kwargs)


augments = st.builds(
    AugmentConfig,
    mirror=numbers(0, 1),
    shift=numbers(0, 1),
    rotate=numbers(0, 180),
    zoom=numbers(0, 1, exclude_max=True),
    contrast=numbers(0, 1, exclude_max=True),
    noise=numbers(0, 10),
    erase=numbers(0, 1),
)
options = st.dictionaries(
    st.sampled_from(["width", "depth", "hidden", "residual"]),
    st.integers() | st.booleans() | st.lists(st.integers(1, 999), max_size=3),
)
configs = st.builds(
    TrainConfig,
    model=st.builds(lambda options: {"name": "vgg", **options}, options),
    image_size=st.integers(8, 1024),
    normalize=st.sampled_from(["dataset", "per_image"]),
    epochs=st.integers(1, 1000),
    batch_size=st.integers(2, 4096),
    optimizer=st.sampled_from(["sgd", "adamw", "muon"]),
    lr=numbers(0, 10, exclude_min=True),
    schedule=st.sampled_from(["cosine", "one_cycle", "plateau"]),
    plateau_patience=st.integers(1, 99),
    plateau_factor=numbers(0, 1, exclude_min=True, exclude_max=True),
    warmup=numbers(0, 1, exclude_max=True),
    weight_decay=numbers(0, 1),
    label_smoothing=numbers(0, 1, exclude_max=True),
    l2=numbers(0, 1) | st.dictionaries(st.text(max_size=9), numbers(0, 1), max_size=3),
    mixup=numbers(0, 10),
    cutmix=numbers(0, 10),
    balance=st.sampled_from(["none", "oversample", "weighted_sampling", "weighted_loss"]),
    balance_strength=numbers(0, 1.5),
    early_stopping=st.integers(0, 99),
    compile=st.booleans(),
    augment=augments,
    ema=numbers(0, 10),
    precision=st.sampled_from(["auto", "fp32", "bf16"]),
    seed=st.integers(0, 2**63),
)


@given(configs)
def test_json_brings_every_configuration_back(config):
    text = json.dumps(config.model_dump(mode="json"))
    assert parse_train_config(json.loads(text)) == config
