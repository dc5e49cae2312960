"""``node_config`` of AWS's nodes against botocore's model of EC2's RunInstances."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from raysearch.errors import did_you_mean

RAYS_OWN = ("SubnetIds",)
"""Keys that Ray takes itself, before EC2 is asked."""
KINDS = {"string": str, "integer": int, "long": int, "boolean": bool, "structure": dict}
NAMES = {str: "a text", int: "a whole number", bool: "true or false", dict: "a mapping"}
NO_NVIDIA = ("g4ad", "g5g")
"""Families with a GPU of AMD, and with ARM processors."""


def check_aws_node(config: dict[str, Any]) -> Iterator[tuple[tuple, str]]:
    """Path within ``config`` and message of each fault; none where botocore is missing."""
    shape = _run_instances()
    if shape is not None:
        yield from _check({k: v for k, v in config.items() if k not in RAYS_OWN}, shape, ())


@cache
def _run_instances() -> Any:
    try:
        from botocore.session import get_session
    except ModuleNotFoundError:
        return None
    service = get_session().get_service_model("ec2")
    return service.operation_model("RunInstances").input_shape


def _check(value: Any, shape: Any, path: tuple) -> Iterator[tuple[tuple, str]]:
    kind = shape.type_name
    if kind == "list":
        if not isinstance(value, list):
            yield path, f"must be a list, but got {value!r}."
            return
        for number, item in enumerate(value):
            yield from _check(item, shape.member, (*path, number))
        return
    expected = KINDS.get(kind, object)
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        yield path, f"must be {NAMES[expected]}, but got {value!r}."
    elif kind == "structure":
        for key, item in value.items():
            if key in shape.members:
                yield from _check(item, shape.members[key], (*path, key))
            else:
                hint = did_you_mean(str(key), shape.members)
                yield (*path, key), f"EC2's RunInstances knows no such field{hint}."


def gpus_of_instance(config: dict[str, Any]) -> int:
    """At least this many GPUs, by the instance's family; EC2 tells Ray the number."""
    family = str(config.get("InstanceType", "")).split(".")[0]
    if family in NO_NVIDIA or not re.fullmatch(r"[gp]\d+\w*", family):
        return 0
    size = str(config["InstanceType"]).partition(".")[2]
    return 8 if family[0] == "p" and size in ("24xlarge", "48xlarge") else 1
