"""Every fault of a space is named, with the line and column of the culprit.

In the texts below § stands where the error must point; it is taken out of the file.
"""

import pytest

from raysearch.errors import ConfigError
from raysearch.space import load_space

TWO = "  model:\n    name: {choice: [vgg, mlp]}\n"
VGG = "  model: vgg\n"


def fault(tmp_path, text):
    before, after = text.split("§")
    path = tmp_path / "space.yaml"
    path.write_text(before + after)
    with pytest.raises(ConfigError) as error:
        load_space(path)
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    place, message = f"{path}:{line}:{column}: ", str(error.value)
    assert message.startswith(place), f"{message} must be at {line}:{column}"
    return message.removeprefix(place)


@pytest.mark.parametrize(
    "text, message",
    [
        ("§trian:\n  model: vgg\n", "unknown section 'trian' (did you mean 'train'?)."),
        ("§search: {trials: 3}\n", "the section train is missing"),
        ("§train: {}\n", "model.name is missing: a network's name, such as vgg."),
        ("train: §5\n", "train must be a mapping of field to value."),
        ("description: §[a]\ntrain:\n" + VGG, "description must be text."),
        ("known: §{lr: 1}\ntrain:\n" + VGG, "known is a list of mappings"),
        ("known: §[1]\ntrain:\n" + VGG, "known is a list of mappings"),
        ("search: §5\ntrain:\n" + VGG, "search must be a mapping"),
    ],
)
def test_sections(tmp_path, text, message):
    assert fault(tmp_path, text).startswith(message)


@pytest.mark.parametrize(
    "setting, message",
    [
        ("§trails: 3", "search: unknown field 'trails' (did you mean 'trials'?)."),
        ("trials: §0", "search: trials: Input should be greater than or equal to 1, but got 0."),
        ("trials: §1.5", "search: trials: Input should be a valid integer"),
        ("time_budget: §60", "time_budget needs a unit, such as 90s, 60m or 1.5h."),
        ("time_budget: §60 minutes", "A duration is a number above 0 and a unit"),
        ("time_budget: §0m", "A duration is a number above 0 and a unit"),
        ("sampler: §tpee", "search: sampler: Input should be 'tpe', 'random', 'gp' or 'nsga2'"),
        (
            "scheduler: §hyperband",
            "search: scheduler: Input should be 'asha', 'median', 'pbt' or 'none'",
        ),
        ("reduction: §1", "search: reduction: Input should be greater than or equal to 2"),
    ],
)
def test_search_settings(tmp_path, setting, message):
    text = f"search:\n  epochs: 4\n  {setting}\ntrain:\n{VGG}"
    assert fault(tmp_path, text).startswith(message)


def test_first_rung_beyond_the_last_epoch(tmp_path):
    message = fault(tmp_path, f"search: §{{epochs: 2, grace_epochs: 3}}\ntrain:\n{VGG}")
    assert "grace_epochs (3) must not exceed epochs (2)" in message


@pytest.mark.parametrize(
    "field, message",
    [
        ("§lrr: 0.1", "unknown field 'lrr' (did you mean 'lr'?). Known here: model,"),
        ("augment: {§rotat: 1}", "unknown field 'rotat' in augment (did you mean 'rotate'?)."),
        ("§augment.rotat: 1", "unknown field 'rotat' in augment (did you mean 'rotate'?)."),
        ("§lr.low: 1", "lr has no fields of its own."),
        ("§epochs: 3", "epochs is not set under train but by search.epochs."),
        ("§seed: 3", "seed is not set under train but by search.seed."),
        ("augment: §0.5", "augment must be a mapping of field to value."),
        ("lr: §-0.1", "lr: Input should be greater than 0, but got -0.1."),
        ("optimizer: §adam", "optimizer: Input should be 'sgd', 'adamw' or 'muon', but got 'adam'"),
        (
            "optimizer: §{choice: [sgd, adam]}",
            "optimizer: Input should be 'sgd', 'adamw' or 'muon'",
        ),
        ("l2: §{0.*: -1}", "l2: l2 is a number of at least 0, or maps patterns"),
        ("l2: {0.*: 0.1, §head.*: 0.1}", "l2: the pattern 'head.*' matches no weight of two or"),
        ("§l2: {value: {head.*: 0.1}}", "l2: the pattern 'head.*' matches no weight of two or"),
        ("l2: §{float: [-0.1, 0.1]}", "l2: l2 is a number of at least 0, or maps patterns"),
        ("lr: §{float: [-0.1, 0.1]}", "lr: Input should be greater than 0, but got -0.1."),
        ("augment: {shift: §{float: [0, 2]}}", "augment.shift: Input should be less than"),
        ("batch_size: §{float: [32, 64]}", "batch_size: Input should be a valid integer"),
        ("§model.name: vgg", "model.name is given twice (first in line 2, column 3)."),
    ],
)
def test_fields(tmp_path, field, message):
    assert fault(tmp_path, f"train:\n{VGG}  {field}\n").startswith(message)


@pytest.mark.parametrize(
    "entry, message",
    [
        ("{§flaot: [0.1, 0.2]}", "lr: unknown key 'flaot' (did you mean 'float'?)."),
        ("§{log: true}", "lr: a dimension has exactly one of choice, int, float, value, but got n"),
        ("§{}", "lr: a dimension has exactly one of choice, int, float, value, but got none."),
        ("§{int: [1, 2], float: [1, 2]}", "lr: a dimension has exactly one of"),
        ("{choice: [1, 2], §log: true}", "lr: unknown key 'log'. Known of choice: choice, when."),
        ("{value: 1, §step: 1}", "lr: unknown key 'step'. Known of value: value, when."),
        ("{float: [0.1, 0.2], §lgo: true}", "lr: unknown key 'lgo' (did you mean 'log'?)."),
        ("{choice: §[]}", "lr: choice is a list of at least one value."),
        ("{choice: §0.1}", "lr: choice is a list of at least one value."),
        ("{choice: [0.1, §0.1]}", "lr: the choice 0.1 is listed twice."),
        ("{choice: [0.1, §{a: 1}]}", "lr: each choice is a value or a list of values."),
        ("{float: §[0.2, 0.1]}", "lr: low < high must hold, but got [0.2, 0.1]."),
        ("{float: §[0.1, 0.1]}", "lr: low < high must hold (write a constant for a single value)"),
        ("{float: §[0.1]}", "lr: float is a list of two numbers, [low, high], but got [0.1]."),
        ("{float: §0.1}", "lr: float is a list of two numbers, [low, high], but got 0.1."),
        ("{float: §[0.1, high]}", 'lr: float takes numbers, but got [0.1, "high"].'),
        ("{float: §[false, 1]}", "lr: float takes numbers, but got [false, 1]."),
        ("{int: §[1, 2.5]}", "lr: int takes whole numbers, but got [1, 2.5]."),
        ("{float: §[0, 1], log: true}", "lr: a log scale needs low > 0, but got 0.0."),
        ("{float: [0.1, 1], log: §yes}", "lr: log is true or false, but got yes."),
        ("{float: [0.1, 1], step: §0}", "lr: step is one of the numbers above 0, but got 0."),
        ("{int: [1, 9], step: §0.5}", "lr: step is one of the whole numbers above 0, but got 0.5."),
        ("{int: [1, 8], step: §3}", "lr: high must be low plus whole steps, such as 7, not 8."),
        ("{float: [0.1, 0.2], step: §0.3}", "lr: high must be low plus whole steps, such as 0.4"),
        ("{float: [0.1, 1], log: true, step: §0.1}", "lr: step and log cannot be combined"),
        ("{value: 1, when: §yes}", "lr: when is a mapping of fields to values"),
        ("{value: 1, when: §{}}", "lr: when is a mapping of fields to values"),
        ("{value: 1, when: {model.name: §[]}}", "lr: when model.name takes a value or a list"),
        ("{value: 1, when: {model.name: §{a: b}}}", "lr: when model.name takes a value or a list"),
    ],
)
def test_dimensions(tmp_path, entry, message):
    assert fault(tmp_path, f"train:\n{VGG}  lr: {entry}\n").startswith(message)


@pytest.mark.parametrize(
    "fields, message",
    [
        ("lr: {value: 1, when: {§model.nme: vgg}}", "lr: when names 'model.nme', which this space"),
        ("lr: {value: 1, when: {§optimizer: sgd}}", "lr: when names 'optimizer', which this space"),
        ("lr: {value: 1, when: {model.name: §vg}}", "lr: model.name is never vg; it is one of vgg"),
        ("lr: {value: 1, when: {model: §vg}}", "lr: model.name is never vg; it is one of vgg"),
        (
            "ema: {int: [1, 3]}\n  lr: {value: 1, when: {ema: §4}}",
            "lr: ema is never 4; it is from 1 to 3.",
        ),
        (
            "ema: 1\n  lr: {value: 1, when: {ema: §true}}",
            "lr: ema is never true; it is 1.",
        ),
        (
            "ema: {float: [0.1, 1]}\n  lr: {value: 1, when: {§ema: 1}}",
            "lr: when cannot name ema, a float.",
        ),
        (
            "§lr: {value: 1, when: {ema: 1}}\n  ema: {choice: [0, 1], when: {lr: 1}}",
            "conditions go in a circle: lr -> ema -> lr.",
        ),
        ("§lr: {value: 1, when: {lr: 1}}", "conditions go in a circle: lr -> lr."),
        (
            "ema: {choice: [0, 1], when: {model.name: vgg}}\n"
            "  lr: {value: 1, §when: {model.name: mlp, ema: 1}}",
            "lr can never apply: no combination has model.name=mlp, ema=1.",
        ),
    ],
)
def test_conditions(tmp_path, fields, message):
    assert fault(tmp_path, f"train:\n{TWO}  {fields}\n").startswith(message)


@pytest.mark.parametrize(
    "items, message",
    [
        ("[{value: 1, when: {model.name: vgg}}, §{value: 2}]", "each of several alternatives"),
        ("[{value: 1, when: {model.name: vgg}}, §0.2]", "lr: each alternative is a mapping"),
        (
            "[{value: 1, when: {model.name: vgg}}, {value: 2, §when: {model.name: vgg}}]",
            "two alternatives of lr have the same when (model.name=vgg).",
        ),
        (
            "[{value: 1, when: {model.name: vgg}}, §{value: 2, when: {model.name: [mlp, vgg]}}]",
            "two alternatives of lr can apply at once: when model.name=vgg and when "
            "model.name=mlp|vgg.",
        ),
    ],
)
def test_alternatives(tmp_path, items, message):
    assert fault(tmp_path, f"train:\n{TWO}  lr: {items}\n").startswith(message)


@pytest.mark.parametrize(
    "model, message",
    [
        ("{name: §vggg}", "There is no network 'vggg' (did you mean 'vgg'?)."),
        ("§{choice: [vgg, vggg]}", "There is no network 'vggg' (did you mean 'vgg'?)."),
        ("{name: vgg, §widht: 8}", "The network 'vgg' has no option 'widht' (did you mean 'wid"),
        (
            "{name: {choice: [vgg, mlp]}, §width: {choice: [8, 16]}}",
            "The network 'mlp' has no option 'width'",
        ),
        ("{name: vgg, §depth: {int: [4, 20]}}", "vgg: depth must be from 4 to 13, but got 20."),
        (
            "{name: vgg, §width: {float: [8, 16]}}",
            "The network 'vgg': width: Input should be a valid integer",
        ),
        (
            "{name: vgg, §width: {choice: [8, a]}}",
            "The network 'vgg': width: Input should be a valid integer",
        ),
        ("{name: vgg, §depth: 99}", "vgg: depth must be from 4 to 13, but got 99."),
        ("{§width: 8}", "model.name is missing"),
        ("{name: §{value: vgg, when: {lr: 1}}}", "model.name is missing where lr=2"),
    ],
)
def test_networks_are_tried_under_every_condition(tmp_path, model, message):
    text = f"train:\n  model: {model}\n  lr: {{choice: [1, 2]}}\n"
    assert fault(tmp_path, text).startswith(message)


def test_image_too_small_for_one_of_the_networks(tmp_path):
    text = f"train:\n{TWO}  image_size: {{choice: [8, 48]}}\n".replace("[vgg", "§[vgg")
    text = text.replace("name: {choice: §", "name: §{choice: ")
    assert fault(tmp_path, text).startswith("The network 'vgg' halves the image three times")


@pytest.mark.parametrize(
    "entry, message",
    [
        ("{lr: §0.5}", "known: lr is 0.5, but it must be from 0.01 to 0.3, log."),
        ("{lr: §fast}", "known: lr is fast, but it must be"),
        ("{§lrr: 0.1}", "known: 'lrr' is not set by this space (did you mean 'lr'?)."),
        ("{model.name: §vggg}", "known: model.name is vggg, but it must be one of vgg, mlp."),
        ("{model: §vggg}", "known: model.name is vggg, but it must be one of vgg, mlp."),
        ("{batch_size: §64}", "known: batch_size is always 32, not 64."),
        ("{model.name: mlp, §model.width: 8}", "known: model.width does not apply to this config"),
        ("{§model.dropout: 0.1}", "known: model.dropout has alternatives; give model.name too."),
        ("{model.name: mlp, model.dropout: §0.15}", "known: model.dropout is 0.15, but it must be"),
        (
            "{model.name: vgg, augment.rotate: §11}",
            "known: augment.rotate is 11, but it must be 10",
        ),
        ("{model.width: §8.5}", "known: model.width is 8.5, but it must be from 4 to 8."),
        ("{model.width: §true}", "known: model.width is true, but it must be from 4 to 8."),
    ],
)
def test_known_configurations(tmp_path, entry, message):
    text = f"""\
train:
{TWO}    width: {{int: [4, 8], when: {{model.name: vgg}}}}
    dropout:
      - {{float: [0, 0.5], when: {{model.name: vgg}}}}
      - {{float: [0, 0.4], step: 0.1, when: {{model.name: mlp}}}}
  batch_size: 32
  lr: {{float: [0.01, 0.3], log: true}}
  augment:
    rotate: {{value: 10, when: {{model.name: vgg}}}}
known:
  - {entry}
"""
    assert fault(tmp_path, text).startswith(message)


def test_too_many_combinations_are_refused(tmp_path):
    parents = ["warmup", "ema", "mixup", "lr", "weight_decay", "label_smoothing"]
    dimensions = [f"  {path}: {{int: [1, 10]}}\n" for path in parents]
    when = ", ".join(f"{path}: [1, 2, 3, 4, 5]" for path in parents)
    text = f"§train:\n{VGG}{''.join(dimensions)}  batch_size: {{value: 4, when: {{{when}}}}}\n"
    assert fault(tmp_path, text).startswith("the conditions have more than 5000 combinations")
