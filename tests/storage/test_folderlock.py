"""Who works in a folder of this machine, and who only brings it up to date."""

import threading

import pytest

from raysearch.errors import RunError
from raysearch.storage.folderlock import held_if_free, locked_here


@pytest.mark.parametrize("works", [True, False])
def test_only_one_holds_a_folder(tmp_path, works):
    with locked_here(tmp_path), held_if_free(tmp_path, works) as free:
        assert not free
    with held_if_free(tmp_path, works) as free, held_if_free(tmp_path, works) as another:
        assert free and not another
    with held_if_free(tmp_path, works) as free:
        assert free


def test_one_that_works_on_the_run_is_named_to_the_next(tmp_path):
    with held_if_free(tmp_path, works=True):
        with pytest.raises(RunError, match=r"Process \d+ is working on s3://b/r"):
            with locked_here(tmp_path, "s3://b/r"):
                pass


def test_one_that_only_brings_the_folder_up_to_date_is_waited_for(tmp_path):
    with locked_here(tmp_path):
        pass  # its number stays in the file
    taken = threading.Event()

    def work():
        with locked_here(tmp_path):
            taken.set()

    with held_if_free(tmp_path, works=False):
        thread = threading.Thread(target=work)
        thread.start()
        assert not taken.wait(0.3)
    thread.join(timeout=10)
    assert taken.is_set()
