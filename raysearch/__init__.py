"""raysearch: from a labelled pile of small images to a verified ensemble, in one command."""

__version__ = "0.1.0"
