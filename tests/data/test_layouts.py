import pytest

from stepseg.data.check import check_split
from stepseg.data.labels import LabelMap
from stepseg.data.layouts import LayoutError, PairLayout, SplitDirs
from stepseg.data.specs import DatasetSpec


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


LAYOUT = PairLayout(
    {
        "train": (
            SplitDirs("new/img", "new/ids", ("_im.jpg",), "_id.png", encoding="other"),
            SplitDirs("img", "ids"),
        ),
        "val": (SplitDirs("img", "ids", names="val.txt"),),
    },
    hint="Ask someone.",
    aliases={"validation": "val"},
)


def test_pairs_are_made_by_relative_name_in_order(tmp_path):
    touch(tmp_path, "img/b/2.png", "img/a/1.jpg", "ids/a/1.png", "ids/b/2.png")
    pairs = LAYOUT.pairs(tmp_path, "train")
    assert [p.name for p in pairs] == ["a/1", "b/2"]
    assert pairs[0].image == tmp_path / "img/a/1.jpg"
    assert pairs[1].label == tmp_path / "ids/b/2.png"
    assert pairs[0].encoding == "ids"


def test_a_city_that_is_a_link_has_pairs(tmp_path):
    touch(tmp_path, "disk/img/1.jpg", "disk/ids/1.png", "img/b/2.jpg", "ids/b/2.png")
    for folder in ("img", "ids"):
        (tmp_path / folder / "a").symlink_to(tmp_path / "disk" / folder)
    assert [p.name for p in LAYOUT.pairs(tmp_path, "train")] == ["a/1", "b/2"]


def test_the_first_arrangement_that_exists_is_used(tmp_path):
    touch(tmp_path, "img/1.jpg", "ids/1.png", "new/img/x_im.jpg", "new/ids/x_id.png")
    (pair,) = LAYOUT.pairs(tmp_path, "train")
    assert (pair.name, pair.encoding) == ("x", "other")


def test_a_list_of_names_selects_the_split(tmp_path):
    touch(tmp_path, *(f"img/{n}.jpg" for n in "abc"), *(f"ids/{n}.png" for n in "abc"))
    (tmp_path / "val.txt").write_text("c\n\na\n")
    assert [p.name for p in LAYOUT.pairs(tmp_path, "validation")] == ["a", "c"]


def test_hidden_and_foreign_files_do_not_count(tmp_path):
    touch(tmp_path, "img/1.jpg", "img/.1.jpg", "img/readme.txt", "ids/1.png", "ids/._1.png")
    assert len(LAYOUT.pairs(tmp_path, "train")) == 1


def test_wrong_root_shows_what_is_expected_and_what_is_there(tmp_path):
    touch(tmp_path, "pictures/1.jpg")
    with pytest.raises(LayoutError) as error:
        LAYOUT.pairs(tmp_path, "train")
    message = str(error.value)
    assert "new/img/**/NAME_im.jpg + new/ids/**/NAME_id.png" in message
    assert "img/**/NAME.jpg + ids/**/NAME.png" in message
    assert "found pictures/" in message
    assert "found no folder img, no folder ids" in message
    assert "Ask someone." in message


def test_capitals_of_suffixes_do_not_count(tmp_path):
    images = ("a.Jpg", "b.JPEG", "c.webp", "d.tif", "e.BMP", "f.png")
    touch(tmp_path, *(f"img/{n}" for n in images), *(f"ids/{n}.png" for n in "abcde"), "ids/f.PNG")
    pairs = LAYOUT.pairs(tmp_path, "train")
    assert [p.image.name for p in pairs] == list(images)
    assert pairs[-1].label == tmp_path / "ids/f.PNG"
    touch(tmp_path, "new/img/x_IM.JPG", "new/ids/x_Id.png")
    (pair,) = LAYOUT.pairs(tmp_path, "train")
    assert (pair.name, pair.image.name) == ("x", "x_IM.JPG")


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda root: None, "does not exist"),
        (lambda root: root.mkdir(), "an empty folder"),
        (lambda root: root.touch(), "a file, not a folder"),
    ],
)
def test_missing_root(tmp_path, make, found):
    root = tmp_path / "data"
    make(root)
    with pytest.raises(LayoutError, match=found):
        LAYOUT.pairs(root, "train")


def test_image_without_label_is_named(tmp_path):
    touch(tmp_path, "img/1.jpg", "img/2.jpg", "ids/1.png")
    with pytest.raises(LayoutError, match=r"images without a label \(1\): .*img/2\.jpg"):
        LAYOUT.pairs(tmp_path, "train")
    _, problems = LAYOUT.dirs(tmp_path, "train").find(tmp_path)
    assert problems.without_label == [tmp_path / "img/2.jpg"]
    assert problems.without_image == []


def test_nothing_is_left_out_silently(tmp_path):
    touch(tmp_path, "img/1.jpg", "ids/1.png", "img/2.heic", *(f"ids/{n}.png" for n in "2345"))
    with pytest.raises(LayoutError) as error:
        LAYOUT.pairs(tmp_path, "train")
    message = str(error.value)
    named = ", ".join(str(tmp_path / f"ids/{n}.png") for n in "234")
    assert f"labels without an image (4): {named}, ...\n" in message
    for text in ("img/**/NAME.jpg", "images end in .jpg, .jpeg, ", "add what is missing", "Ask"):
        assert text in message
    (tmp_path / "val.txt").write_text("1\n")  # who lists what belongs to a split leaves out others
    assert len(LAYOUT.pairs(tmp_path, "val")) == 1


def test_listed_name_without_files_is_reported(tmp_path):
    touch(tmp_path, "img/1.jpg", "ids/1.png", "ids/3.png")
    (tmp_path / "val.txt").write_text("1\n2\n3\n")
    with pytest.raises(LayoutError) as error:
        LAYOUT.pairs(tmp_path, "val")
    assert f"labels without an image (1): {tmp_path / 'ids/3.png'}\n" in str(error.value)
    assert f"listed images that are not there (1): {tmp_path / 'img/2.jpg'}\n" in str(error.value)
    spec = DatasetSpec(
        "a", ("b", "c"), ((0, 0, 0), (1, 1, 1)), LAYOUT, {"ids": LabelMap.identity(2)}
    )
    problems = check_split(spec, tmp_path, "val").problems
    assert f"{tmp_path / 'img/2.jpg'}: in val.txt, but not there" in problems


def test_an_empty_list_of_names_is_an_empty_split(tmp_path):
    touch(tmp_path, "img/1.jpg", "ids/1.png", "val.txt")
    with pytest.raises(LayoutError, match="is empty"):
        LAYOUT.pairs(tmp_path, "val")


def test_labels_without_images_leave_an_empty_split(tmp_path):
    touch(tmp_path, "img/readme.txt", "ids/1.png")
    with pytest.raises(LayoutError, match="is empty"):
        LAYOUT.pairs(tmp_path, "train")


def test_empty_split_is_described(tmp_path):
    (tmp_path / "img").mkdir()
    touch(tmp_path, "ids/1.jpg")
    with pytest.raises(LayoutError, match=r"img with 0 files NAME\.jpg, ids with 0 files"):
        LAYOUT.pairs(tmp_path, "train")


def test_two_files_of_one_name_are_refused(tmp_path):
    touch(tmp_path, "img/1.jpg", "img/1.png", "ids/1.png")
    with pytest.raises(LayoutError, match=r"1\.(jpg|png) and .*1\.(jpg|png) have the same name"):
        LAYOUT.pairs(tmp_path, "train")


@pytest.mark.parametrize(
    ("files", "remedy"),
    [
        (("1.jpg", "1.png"), "say which are the images, such as image_suffix: .jpg here"),
        (("1.PNG", "1.tif"), "say which are the images, such as image_suffix: .tif here"),
        (("1.jpg", "1.JPG"), "rename one of them"),
    ],
)
def test_nobody_is_told_to_delete_labels(files, remedy, tmp_path):
    touch(tmp_path, *(f"both/{name}" for name in files), "both/2.png")
    dirs = SplitDirs("both", "both", choice="image_suffix: {} here")
    with pytest.raises(LayoutError, match="have the same name") as error:
        PairLayout({"train": (dirs,)}).pairs(tmp_path, "train")
    assert remedy in str(error.value)


def test_unknown_split(tmp_path):
    with pytest.raises(LayoutError, match=r"unknown split 'dev'.*train"):
        LAYOUT.pairs(tmp_path, "dev")
