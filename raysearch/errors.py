"""The exceptions that a caller of raysearch catches.

    RaysearchError
    ├── InputError      what the user gave cannot be used              exit code 2
    │   ├── DataError       images, tables, shards
    │   ├── ConfigError     a configuration, a search space, an option
    │   └── ArtifactError   an exported ensemble, a run folder
    ├── RunError        the input was fine, the work failed            exit code 1
    └── Interrupted     Ctrl-C came before there was a result          exit code 130

Each message states the rule, the value found, where (file, line, row) and the remedy.
"""


class RaysearchError(Exception):
    """Base of every error that is shown to a user without a traceback."""

    exit_code = 1


class InputError(RaysearchError):
    exit_code = 2


class DataError(InputError):
    pass


class ConfigError(InputError):
    pass


class FieldError(ConfigError):
    """``field``: path of the field at fault in a `TrainConfig`, e.g. ``("l2", "*.bias")``."""

    def __init__(self, message: str, field: tuple[str, ...] = ()):
        super().__init__(message)
        self.field = field


class ArtifactError(InputError):
    pass


class RunError(RaysearchError):
    exit_code = 1


class Interrupted(RaysearchError):
    exit_code = 130


def did_you_mean(name: str, known) -> str:
    """``" (did you mean 'rotate'?)"`` for a near match of ``name`` among ``known``, else ``""``."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""
