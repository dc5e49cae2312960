import pytest

from raysearch.data.layouts import FER_CLASSES, order_classes, read_layout
from raysearch.errors import DataError


def placed(names):
    return [(entry.split, entry.label) for entry in read_layout(names, "it").entries]


def test_prefixes_place_the_image_archive():
    names = [
        "train/happy/Training_1.jpg",
        "test/sad/PublicTest_2.jpg",
        "test/sad/PrivateTest_3.jpg",
    ]
    assert placed(names) == [("train", "happy"), ("validation", "sad"), ("test", "sad")]
    assert read_layout(names, "it").complete


@pytest.mark.parametrize("top", ["", "archive/", "a/b/"])
@pytest.mark.parametrize(("name", "split"), [("val", "validation"), ("Valid", "validation")])
def test_split_folders_are_known_by_several_names(top, name, split):
    names = [f"{top}train/cat/1.png", f"{top}{name}/dog/2.png"]
    assert placed(names) == [("train", "cat"), (split, "dog")]


def test_class_folders_without_splits_leave_the_split_open():
    assert placed(["x/cat/1.png", "x/dog/2.png"]) == [("", "cat"), ("", "dog")]


def test_merged_test_folder_of_fer2013_is_warned_about():
    names = [f"{split}/{name}/1.png" for split in ("train", "test") for name in FER_CLASSES]
    layout = read_layout(names, "it")
    assert "PublicTest and PrivateTest" in layout.notes[0] and not layout.complete


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ([], "there are none"),
        (["1.png"], "'1.png' lies in none"),
        (["train/a/1.png", "train/2.png", "test/a/3.png"], "'train/2.png' does not"),
        (["train/a/1.png", "cat/2.png"], "split folders .train. beside other folders .cat."),
    ],
)
def test_other_layouts_are_refused_with_an_example(names, why):
    with pytest.raises(DataError, match=why):
        read_layout(names, "it")


def test_fer_classes_keep_their_own_order():
    assert order_classes(name.title() for name in sorted(FER_CLASSES)) == FER_CLASSES
    assert order_classes(["dog", "cat"]) == ("cat", "dog")


def test_one_class_is_not_enough():
    with pytest.raises(DataError, match="two classes"):
        order_classes(["cat"])
