"""Ray is imported in raysearch/search/ alone: linted, and proved in a process without Ray."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

IMPORT_ALL = """
import importlib, json, pkgutil, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name == "ray" or name.startswith("ray."):
            raise ImportError("ray is blocked", name=name)

package, *left_out = sys.argv[1:]
sys.meta_path.insert(0, Blocked())
names, failed, pending = [], {}, [package]
while pending:
    name = pending.pop()
    if name in left_out or name.endswith(".__main__"):
        continue
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        failed[name] = f"{type(error).__name__}: {error}"
        continue
    names.append(name)
    inside = getattr(module, "__path__", [])
    pending += [found.name for found in pkgutil.iter_modules(inside, name + ".")]
print(json.dumps({"imported": names, "failed": failed, "ray": "ray" in sys.modules}))
"""


def import_all(package: str, *left_out: str, path: Path = ROOT) -> dict:
    """Import every module of ``package`` but ``left_out`` where ``ray`` cannot be imported."""
    process = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, package, *left_out],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(path)},
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def modules_on_disk() -> set[str]:
    names = set()
    for path in (ROOT / "raysearch").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names.add(".".join(part for part in parts if part != "__init__"))
    outside = {name for name in names if not name.startswith("raysearch.search")}
    return outside - {"raysearch.__main__"}


def test_every_module_outside_search_is_imported_without_ray():
    found = import_all("raysearch", "raysearch.search")
    assert found["failed"] == {}
    assert set(found["imported"]) == modules_on_disk()
    assert not found["ray"]


@pytest.mark.parametrize("line", ["import ray", "from ray import tune", "import ray.train"])
def test_a_planted_import_of_ray_is_found(tmp_path, line):
    package = tmp_path / "planted"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "inner" / "__init__.py").touch()
    (package / "inner" / "guilty.py").write_text(line + "\n")
    (package / "inner" / "innocent.py").write_text("import json\n")
    found = import_all("planted", path=tmp_path)
    assert list(found["failed"]) == ["planted.inner.guilty"]
    assert "ray is blocked" in found["failed"]["planted.inner.guilty"]
    assert import_all("planted", "planted.inner", path=tmp_path)["failed"] == {}


def test_a_module_that_is_missing_is_not_taken_for_a_success(tmp_path):
    assert list(import_all("absent", path=tmp_path)["failed"]) == ["absent"]


def ruff_findings(name: str, source: str) -> list[str]:
    """Codes that ruff finds in ``source`` if it were the file ``name`` of this checkout."""
    process = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--output-format=json", "--stdin-filename", name]
        + ["--no-cache", "-"],
        input=source,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    return [finding["code"] for finding in json.loads(process.stdout)]


INSIDE_A_FUNCTION = "def f():\n    import ray\n\n    return ray\n"


@pytest.mark.parametrize("source", [INSIDE_A_FUNCTION, "from ray import tune\n\nprint(tune)\n"])
def test_lint_bans_ray_outside_search_even_inside_a_function(source):
    assert ruff_findings("raysearch/train/planted.py", source) == ["TID251"]
    assert ruff_findings("raysearch/search/planted.py", source) == []


def heavy_imports_of(script: str) -> str:
    """Which of the packages that take long to import ``script`` imports, as it prints them last."""
    heavy = ("torch", "ray", "optuna", "timm", "matplotlib", "pandas", "onnxruntime")
    process = subprocess.run(
        [sys.executable, "-c", f"{script}\nprint([n for n in {heavy} if n in sys.modules])"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout.splitlines()[-1]


def test_cli_starts_without_heavy_imports():
    assert heavy_imports_of("import sys\nfrom raysearch import cli\ncli._register()") == "[]"
    assert heavy_imports_of("import sys\nimport pandas") == "['pandas']"


def test_status_of_a_run_is_told_without_heavy_imports(tmp_path):
    (tmp_path / "trials" / "0000").mkdir(parents=True)
    script = f"""
import sys
from raysearch import cli
sys.argv = ["raysearch", "status", {str(tmp_path)!r}]
try:
    cli.main()
except SystemExit as end:
    assert not end.code
"""
    assert heavy_imports_of(script) == "[]"
