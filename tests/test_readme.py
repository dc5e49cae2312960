"""The README's commands run, its options exist, its trees and links are there."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from raysearch import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORTEN = {
    "tune": ["--trials", "2", "--epochs", "1"],
    "train": ["--epochs", "1"],
    "distill": ["--epochs", "1"],
}
OF_A_CLUSTER = "cluster.yaml"
"""In commands that need machines which are not here."""
WHOLE = "--trial"
"""An option of commands that are not to be shortened: what they repeat was short."""


def console_commands() -> list[list[str]]:
    """Words of every ``$`` line in the README's console blocks, in order."""
    blocks = re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert all(line.startswith("$ ") for line in lines), "a console block holds commands alone"
    return [shlex.split(line[2:]) for line in lines]


RAYSEARCH = [words[1:] for words in console_commands() if words[0] == "raysearch"]


@pytest.fixture(scope="module")
def root_command():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "app", typer.Typer())
        cli._register()
        return typer.main.get_command(cli.app)


def leaf(group, words: list[str]):
    """The command that ``words`` name, and what is left of them."""
    name, *rest = words
    assert name in group.commands, f"there is no command {name!r}"
    command = group.commands[name]
    return leaf(command, rest) if hasattr(command, "commands") else (command, rest)


@pytest.mark.parametrize("words", RAYSEARCH, ids=" ".join)
def test_every_command_and_option_exists(root_command, words):
    command, rest = leaf(root_command, words)
    command.make_context(words[0], rest)


@pytest.mark.parametrize("line", ["tune --trails 3", "tunes", "data imports x", "predict"])
def test_a_command_that_does_not_exist_would_be_found(root_command, line):
    with pytest.raises(Exception, match="(?i)no such option|no command|missing"):
        command, rest = leaf(root_command, line.split())
        command.make_context("x", rest)


def command_names(group, prefix: str = "") -> list[str]:
    names = []
    for name, command in group.commands.items():
        inner = hasattr(command, "commands")
        names += command_names(command, f"{prefix}{name} ") if inner else [prefix + name]
    return names


def test_the_readme_shows_every_command(root_command):
    hidden = {"data synth"}  # `tune` without --data calls it
    shown = {" ".join(words[:2]) for words in RAYSEARCH} | {words[0] for words in RAYSEARCH}
    assert set(command_names(root_command)) - hidden <= shown


def test_every_make_target_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z]+)", README)):
        if target not in ("the", "them", "a"):
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def tree(first: str) -> list[str]:
    """Paths in the text block whose first line begins with ``first``."""
    block = re.search(rf"```text\n({re.escape(first)}.*?)```", README, flags=re.DOTALL)[1]
    lines = block.splitlines()
    top = lines[0].split()[0] if lines[1].startswith(" ") else ""
    return [top + line.split()[0] for line in lines[bool(top) :]]


def test_code_tree_is_the_checkout():
    paths = tree("raysearch/data/")
    assert all((ROOT / path).is_dir() for path in paths)
    packages = {f"raysearch/{p.parent.name}/" for p in (ROOT / "raysearch").glob("*/__init__.py")}
    assert packages <= set(paths)


def draw_photos(folder: Path, images_per_class: int = 60) -> None:
    """Three classes of 24 x 24 images that differ in where they are bright."""
    rng = np.random.default_rng(0)
    for row, name in enumerate(("high", "middle", "low")):
        (folder / name).mkdir(parents=True)
        for number in range(images_per_class):
            image = rng.integers(0, 160, (24, 24), dtype=np.uint8)
            image[8 * row : 8 * row + 8] += 80
            Image.fromarray(image).save(folder / name / f"{number}.png")


def shortened() -> list[list[str]]:
    """Words of the commands that run here, with what makes them short."""
    here = [words for words in RAYSEARCH if OF_A_CLUSTER not in words]
    return [words + ([] if WHOLE in words else SHORTEN.get(words[0], [])) for words in here]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_commands_run_in_the_readmes_order(tmp_path):
    draw_photos(tmp_path / "photos")
    (tmp_path / "config.yaml").write_text("model: {name: mlp, hidden: [16]}\nimage_size: 24\n")
    (tmp_path / "commands").write_text("".join(f"{json.dumps(words)}\n" for words in shortened()))
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("run_commands.py"), "commands"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    print(done.stdout)
    for path in tree("results/photos/"):
        assert (tmp_path / path).exists(), path
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 1 + 180
