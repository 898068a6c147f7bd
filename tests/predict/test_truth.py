"""Which label file belongs to an image."""

import pytest

from stepseg.predict.inputs import File
from stepseg.predict.truth import TruthFolder


@pytest.mark.parametrize("end", ["_leftImg8bit.png", "_leftImg8bit.PNG"])
def test_labels_are_named_as_the_data_set_publishes_them(end, tmp_path):
    """Capitals make no difference, as in a training."""
    label = tmp_path / "city" / "a_gtFine_labelIds.png"
    label.parent.mkdir()
    label.touch()
    truth = TruthFolder(tmp_path, "cityscapes", 19)
    image = File(tmp_path / f"a{end}", f"city/a{end}", "city/a")
    found = truth.find(image)
    assert found is not None
    assert found[0] == label
