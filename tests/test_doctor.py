import json
import sys
from importlib import metadata

import pytest
from typer.testing import CliRunner

from raysearch import doctor


def by_name(checks: list[doctor.Check]) -> dict[str, doctor.Check]:
    return {check.name: check for check in checks}


def test_this_machine_passes_and_every_problem_has_a_remedy(tmp_path):
    checks = doctor.examine(tmp_path, environ={})
    assert all(check.level != doctor.BAD for check in checks)
    assert all(bool(check.remedy) == (check.level != doctor.OK) for check in checks)
    assert by_name(checks)["ray"].found == metadata.version("ray")


def test_python_older_than_3_11_or_newer_than_3_13_is_bad():
    for version, level in (((3, 10, 4), doctor.BAD), ((3, 14, 0), doctor.BAD)):
        assert doctor.check_python(version)[0].level == level
    assert doctor.check_python((3, 11, 0))[0].level == doctor.OK
    assert doctor.check_python((3, 13, 9))[0].level == doctor.OK


def test_machine_without_torch_is_examined_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    checks = by_name(doctor.examine(tmp_path, environ={}))
    assert "gpu" not in checks and "cpu" in checks


def test_a_missing_package_is_bad_and_the_others_are_still_checked():
    def version_of(name: str) -> str:
        if name == "ray":
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    levels = {check.name: check.level for check in doctor.check_packages(version_of)}
    assert levels.pop("ray") == doctor.BAD
    assert set(levels.values()) == {doctor.OK}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("flags : fpu avx2 avx512f amx_bf16", "bf16 pays"),
        ("flags : fpu avx2 avx512_bf16", "bf16 pays"),
        ("flags : fpu avx2", "bf16 does not pay"),
    ],
)
def test_bf16_pays_where_the_cpu_multiplies_it(tmp_path, flags, said):
    (tmp_path / "cpuinfo").write_text(flags)
    assert doctor.check_cpu(tmp_path / "cpuinfo")[0].found.endswith(said)


def test_a_folder_that_cannot_be_written_to_is_bad(tmp_path):
    (tmp_path / "file").touch()
    check = doctor.check_folder(tmp_path / "file")
    assert check.level == doctor.BAD
    assert str(tmp_path / "file") in check.found


def test_checking_makes_nothing(tmp_path):
    doctor.examine(tmp_path / "new", environ={})
    assert list(tmp_path.iterdir()) == []


def test_disk_is_measured_against_both_limits(tmp_path):
    levels = [
        doctor.check_disk(tmp_path, low=0, very_low=0).level,
        doctor.check_disk(tmp_path, low=1e18, very_low=0).level,
        doctor.check_disk(tmp_path, low=1e18, very_low=1e18).level,
    ]
    assert levels == [doctor.OK, doctor.WARN, doctor.BAD]


def test_small_shared_memory_is_named_with_the_remedy(tmp_path):
    check = doctor.check_shared_memory(tmp_path, low=1e18)
    assert check.level == doctor.WARN
    assert "--shm-size" in check.remedy
    assert doctor.check_shared_memory(tmp_path / "none").level == doctor.OK


def test_settings_that_bite_are_named_with_their_value():
    environ = {"RAY_ADDRESS": "10.0.0.1:6379", "RAY_TRAIN_V2_ENABLED": "1", "PATH": "/bin"}
    checks = doctor.check_environment(environ)
    assert [check.found for check in checks] == ["RAY_ADDRESS=10.0.0.1:6379"]
    assert doctor.check_environment({"RAY_TRAIN_V2_ENABLED": "0"})[0].level == doctor.WARN
    assert doctor.check_environment({})[0].level == doctor.OK


def test_command_prints_one_object_and_exits_1_when_something_is_bad(tmp_path):
    import typer

    from raysearch.cli import doctor as command

    app = typer.Typer()
    command.register(app)
    (tmp_path / "file").touch()
    good = CliRunner().invoke(app, ["--json", "--storage", str(tmp_path)])
    assert good.exit_code == 0 and json.loads(good.stdout)["ok"]
    bad = CliRunner().invoke(app, ["--json", "--storage", str(tmp_path / "file" / "x")])
    assert bad.exit_code == 1 and not json.loads(bad.stdout)["ok"]
