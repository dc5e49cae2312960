"""The shipped cluster files, with the places to edit filled in, and changed."""

from pathlib import Path

ROOT = Path(__file__).parents[3]
SHIPPED = {
    "aws": ROOT / "cluster.yaml",
    "gcp": ROOT / "clusters" / "gcp.yaml",
    "onprem": ROOT / "clusters" / "onprem.yaml",
    "kuberay": ROOT / "clusters" / "kuberay.yaml",
}
AMI = "ami-0123456789abcdef0"


def filled(name: str) -> str:
    """A shipped file as a user leaves it."""
    text = SHIPPED[name].read_text()
    text = text.replace("[REPLACE_ME, REPLACE_ME]", "[10.0.0.2, 10.0.0.3]")
    return text.replace("ami-REPLACE_ME", AMI).replace("REPLACE_ME", "mine")


def write(folder: Path, name: str, *changes: tuple[str, str]) -> Path:
    """The filled file ``name`` in ``folder``; each of ``changes`` replaces one text by another."""
    text = filled(name)
    for old, new in changes:
        assert old in text, f"{name} has no {old!r} to change"
        text = text.replace(old, new)
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path
