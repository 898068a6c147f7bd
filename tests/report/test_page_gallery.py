"""Pictures of runs within the page: which, how large, and what spoils none of the rest."""

import base64
import io

from PIL import Image

from stepseg.report.page.gallery import find_pictures, run_pictures


def draw(path, size=(1500, 300), colour=(200, 30, 60)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def test_the_last_validation_is_shown(tmp_path):
    draw(tmp_path / "pictures" / "step_0000100" / "0_a.png")
    last = [draw(tmp_path / "pictures" / "step_0000200" / f"{i}_a.png") for i in range(5)]
    draw(tmp_path / "checkpoints" / "pictures" / "example_1.png")
    assert find_pictures(tmp_path) == last[:3]


def test_cards_and_predictions_have_pictures_too(tmp_path):
    assert find_pictures(tmp_path) == []
    assert run_pictures(tmp_path) == []
    overlay = draw(tmp_path / "overlay" / "sub" / "x.png")
    assert find_pictures(tmp_path) == [overlay]
    card = draw(tmp_path / "checkpoints" / "pictures" / "example_1.png")
    assert find_pictures(tmp_path) == [card]


def test_a_picture_travels_within_the_page(tmp_path):
    draw(tmp_path / "exits" / 'a"b.png')
    (tmp_path / "exits" / "broken.png").write_bytes(b"no picture")
    ((name, uri),) = run_pictures(tmp_path)
    assert name == 'exits/a"b'
    data = uri.removeprefix("data:image/webp;base64,")
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.size == (1000, 200)
        red, green, blue = picture.convert("RGB").getpixel((500, 100))
    assert abs(red - 200) + abs(green - 30) + abs(blue - 60) < 30
