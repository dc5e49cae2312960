"""`TrainConfig`: everything that one training run needs, frozen, validated, with units."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from raysearch.errors import ConfigError, did_you_mean

Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class ModelConfig(BaseModel):
    """A network's name and its own options, e.g. ``{name: vgg, width: 32, dropout: 0.2}``.

    The options are checked against the builder's signature by `raysearch.models.registry`.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


class AugmentConfig(_Part):
    """Random changes to a training image, drawn per image; 0 turns one off.

    `raysearch.train.augment` says in which order. At the edges the image is seen reflected.
    """

    mirror: Fraction = 0.5
    """Probability of a left-right flip."""
    shift: Fraction = 0.0
    """Largest shift in each direction, as a fraction of the side; in whole pixels unless the image
    is resampled anyway, by crop, rotate, zoom or shear."""
    crop: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Largest part of the side that a random square crop leaves out before it is enlarged."""
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest rotation either way, in degrees."""
    zoom: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Largest relative change of size either way: 0.1 draws a scale from [0.9, 1.1]."""
    shear: Annotated[float, Field(ge=0, lt=90)] = 0.0
    """Largest angle that upright lines come to lean at, either way, in degrees."""
    brightness: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Largest amount added to all of an image, either way, in units of the full pixel range."""
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Largest relative change of contrast about the image's mean, either way."""
    sharpen: NonNegative = 0.0
    """Largest share of an image's difference from its blur that is added to it: 1 is what PIL,
    torchvision and kornia call a sharpness of 2."""
    noise: NonNegative = 0.0
    """Largest standard deviation of added Gaussian noise, in units of the full pixel range."""
    erase: Fraction = 0.0
    """Side of the square that is blanked out, as a fraction of the image's side."""


class TrainConfig(_Part):
    """One training run. Equal configurations and seeds give equal runs on equal hardware."""

    model: ModelConfig
    """The network: a name, or a mapping of its name and options."""
    pretrained: Annotated[str, Field(min_length=1)] | None = None
    """Weights to start from, which must fit but for the head: `hub` (timm's own), or a file or
    folder of them."""
    init_from: Annotated[str, Field(min_length=1)] | None = None
    """Weights carried over as far as they fit: from a run (its best trial), a trial's folder, an
    exported ensemble (its heaviest member, or `FOLDER#TRIAL`), or, for `raysearch train`, a
    configuration file that is trained first."""
    freeze_depth: Annotated[int, Field(ge=0)] = 0
    """How many of the network's leading layer groups do not learn: timm's own groups (the stem,
    then one a block), or one a convolution or block. The head always learns."""
    classes: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    """The classes to tell apart, a subset of the data's; all where left out."""
    image_size: Annotated[int, Field(ge=8, le=1024)] = 48
    """Side in pixels that images are resized to on the device."""
    normalize: Literal["dataset", "per_image"] = "dataset"
    """Subtract and divide by the training set's mean and deviation, or by each image's own."""
    epochs: Annotated[int, Field(ge=1)] = 20
    batch_size: Annotated[int, Field(ge=2)] = 128
    """Images per optimizer step, over all workers."""
    optimizer: Literal["sgd", "adamw", "muon"] = "sgd"
    """SGD with Nesterov momentum 0.9, AdamW, or timm's Muon (AdamW for biases, norms and the
    classifier)."""
    lr: Positive = 0.05
    """Peak learning rate. Good ones for Muon are of the size of AdamW's: its updates are."""
    schedule: Literal["cosine", "one_cycle", "plateau"] = "one_cycle"
    """Cosine decay from the peak; a linear rise over `warmup` and then cosine decay; or the peak
    until validation log loss stands still, and then less."""
    plateau_patience: Annotated[int, Field(ge=1)] = 3
    """Epochs in a row without a lower validation log loss after which plateau lowers the learning
    rate."""
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """What plateau multiplies the learning rate with."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of all steps over which one-cycle rises to its peak."""
    weight_decay: NonNegative = 5e-3
    """Decoupled: each step shrinks weights of two or more dimensions by lr times this; biases and
    norms are never decayed."""
    l2: NonNegative | dict[str, NonNegative] = 0.0
    """Times the sum of squared weights of two or more dimensions, added to the loss: one strength
    for all, or one for each pattern of parameter names (`*` matches anything, the first pattern
    that matches counts). The training loss that is reported is without it."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    mixup: NonNegative = 0.0
    """Alpha of the Beta distribution that mixing shares are drawn from; 0 is none."""
    cutmix: NonNegative = 0.0
    """The same for rectangles cut from another image; with both, each image gets one of the two at
    equal chance."""
    balance: Literal["none", "oversample", "weighted_sampling", "weighted_loss"] = "none"
    """Against unequal class sizes, in the training split alone. oversample: images of smaller
    classes are repeated until all classes are equal, in epochs as much longer. weighted_sampling:
    epochs of the same length, drawn with a chance that is equal for every class. weighted_loss:
    losses weighted inversely to the size of their class, by 1 in the mean."""
    balance_strength: Annotated[float, Field(ge=0, le=1.5)] = 1.0
    """How far balance goes: 0 leaves the classes as they are, 0.5 makes them as unequal as the
    square roots of their sizes, 1 equal; above 1 the rare ones count more than the others."""
    early_stopping: Annotated[int, Field(ge=0)] = 0
    """Epochs in a row without a lower validation log loss after which training ends; 0 is
    never."""
    augment: AugmentConfig = AugmentConfig()
    ema: NonNegative = 0.5
    """Horizon of the exponential moving average of the weights, in epochs; 0 is none."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Autocast type; auto takes bf16 where the device has matrix units for it."""
    compile: bool = False
    """Train through `torch.compile`, with the same results to rounding; needs a compiler on the
    machine (C++ for a CPU, C for a GPU) and up to a minute in the first step."""
    images_on: Literal["auto", "device", "host"] = "auto"
    """Where images wait: on the device, or in the host's memory map, from which they are fed to it
    with the same result. auto is the device where they take less than half of its free memory."""
    seed: Annotated[int, Field(ge=0)] = 0

    @field_validator("init_from")
    @classmethod
    def _one_start(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("pretrained") is not None:
            raise PydanticCustomError("two_starts", "pretrained is given too, and one is enough")
        return value

    @field_validator("classes")
    @classmethod
    def _classes_differ(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names is not None and len(set(names)) < len(names):
            raise ValueError("each class is named once")
        return names

    @field_validator("l2", mode="before")
    @classmethod
    def _strengths_of_l2(cls, value: Any) -> Any:
        strengths = value.values() if isinstance(value, dict) else [value]
        if all(isinstance(s, int | float) and 0 <= s < float("inf") for s in strengths):
            return value
        raise PydanticCustomError(
            "l2", "l2 is a number of at least 0, or maps patterns of parameter names to such"
        )

    @model_validator(mode="before")
    @classmethod
    def _model_by_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("model"), str):
            return {**values, "model": {"name": values["model"]}}
        return values


def parse_train_config(values: Any, where: str = "the configuration") -> TrainConfig:
    """A `TrainConfig` from plain values; `ConfigError` names the field, the value and the rule.

    ``where`` opens the message: a file name, a trial.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where} must be a mapping of field to value, but got {values!r}.")
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {describe(error, TrainConfig)}") from None


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """The first fault in words: field, value found, rule, and the nearest known name."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = field_names(model, first["loc"][:-1])
        hint = did_you_mean(str(first["loc"][-1]), known)
        return f"unknown field {field!r}{hint}. Known here: {', '.join(known)}."
    if first["type"] == "missing":
        return f"the field {field!r} is missing."
    return f"{field}: {first['msg']}, but got {first['input']!r}."


def field_names(model: type[BaseModel], path: tuple = ()) -> list[str]:
    """Names of the fields of ``model``, or of the part of it at ``path``."""
    for part in path:
        field = model.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type):
            return []
        model = field.annotation
    return list(model.model_fields)
