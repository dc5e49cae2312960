"""Search spaces: a YAML file to typed dimensions to `TrainConfig`, without any search library.

    space = load_space("search_spaces/demo.yaml")
    values = space.propose(lambda dimension: ...)            # {"lr": 0.1, "model.width": 24}
    train = space.build(values, epochs=20, seed=0)           # a TrainConfig

`search_spaces/README.md` explains the format.
"""

from raysearch.space.dimensions import Condition, Dimension
from raysearch.space.loading import load_space
from raysearch.space.searchspace import SearchSpace
from raysearch.space.settings import SearchConfig, parse_duration, parse_size
from raysearch.space.shipped import resolve_config, resolve_space, shipped_baselines, shipped_spaces

__all__ = [
    "Condition",
    "Dimension",
    "SearchConfig",
    "SearchSpace",
    "load_space",
    "parse_duration",
    "parse_size",
    "resolve_config",
    "resolve_space",
    "shipped_baselines",
    "shipped_spaces",
]
