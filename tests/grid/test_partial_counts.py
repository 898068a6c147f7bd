"""Parts of an evaluation: disjoint ones add up, older ones count once."""

from types import SimpleNamespace

import pytest
import torch

from stepseg.evaluation import Evaluator
from stepseg.grid.partial_counts import Snapshots, unfinished
from stepseg.protocol import Protocol
from toys import CLASSES, SYSTEMS, toy_images, toy_labels, toy_segmenter

POINTS = ["a", "b"]
IMAGES = [f"{index:02d}" for index in range(10)]


def sums(*numbers: float):
    return [{"tokens.images": torch.tensor(number)} for number in numbers]


@pytest.fixture
def snapshots(tmp_path):
    return Snapshots(tmp_path, POINTS)


def joined(snapshots, processes=1):
    snapshots.join(IMAGES, processes)
    part = snapshots.joined()
    return None if part is None else (sorted(part.images), *(s["tokens.images"] for s in part.sums))


def test_nothing_was_counted(snapshots):
    assert joined(snapshots) is None


def test_parts_of_processes_add_up(snapshots):
    snapshots.write(0, IMAGES[:3], sums(3, 30))
    snapshots.write(1, IMAGES[5:7], sums(2, 20))
    assert joined(snapshots) == ([*IMAGES[:3], *IMAGES[5:7]], 5, 50)
    assert joined(snapshots) == ([*IMAGES[:3], *IMAGES[5:7]], 5, 50)  # and not twice
    assert unfinished(snapshots.folder) == [POINTS]


def test_a_part_replaces_what_went_into_it(snapshots):
    """Process 0 goes on from the joined part; killed again, that part counts once."""
    snapshots.write(0, IMAGES[:3], sums(3, 30))
    assert joined(snapshots) == (IMAGES[:3], 3, 30)
    snapshots.write(0, IMAGES[:5], sums(5, 50))
    snapshots.write(1, IMAGES[7:8], sums(1, 10))
    assert joined(snapshots) == ([*IMAGES[:5], IMAGES[7]], 6, 60)


def test_killed_between_joining_and_tidying_up(snapshots):
    snapshots.write(0, IMAGES[:3], sums(3, 30))
    snapshots.write(1, IMAGES[5:7], sums(2, 20))
    old = {file: file.read_bytes() for file in snapshots.folder.iterdir()}
    whole = joined(snapshots)
    for file, content in old.items():
        file.write_bytes(content)
    assert joined(snapshots) == whole


def test_every_process_keeps_an_image(snapshots):
    snapshots.write(0, IMAGES[:5], sums(5, 50))
    snapshots.write(1, IMAGES[5:9], sums(4, 40))
    assert joined(snapshots, processes=2) == (IMAGES[:5], 5, 50)


def test_other_points_are_another_pass(snapshots):
    snapshots.write(0, IMAGES[:3], sums(3, 30))
    assert joined(Snapshots(snapshots.folder, ["a"])) is None
    snapshots.clear()
    assert unfinished(snapshots.folder) == []


def test_damaged_files_are_named(snapshots):
    snapshots.write(0, IMAGES[:3], sums(3, 30))
    [file] = snapshots.folder.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=rf"{file.name} cannot be read .*delete it"):
        joined(snapshots)


def test_an_evaluation_goes_on_from_a_part(tmp_path):
    """Half of the images in one evaluator, half in another that adds the first: as all in one."""
    model, spec = toy_segmenter(), SimpleNamespace(num_classes=CLASSES, ignore_index=255)
    points = [SYSTEMS["step"], SYSTEMS["dcts"]]
    images, labels = (toy_images(4) * 255).to(torch.uint8), toy_labels(4)
    whole, first, second = (Evaluator(model, points, spec, Protocol()) for _ in range(3))
    for evaluator, chosen in ((whole, range(4)), (first, range(2)), (second, range(2, 4))):
        for index in chosen:
            evaluator.update(images[index, None], labels[index, None])
    snapshots = Snapshots(tmp_path, POINTS)
    snapshots.write(0, IMAGES[:2], first.sums())
    snapshots.join(IMAGES, 1)
    second.add(snapshots.joined().sums)
    assert second.compute() == whole.compute()
