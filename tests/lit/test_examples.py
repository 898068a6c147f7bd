"""Which images are drawn in training, and what of them."""

import torch

from stepseg.lit.callbacks.examples import model_view, spread
from stepseg.protocol import Protocol, show_first


def test_images_are_shown_as_the_protocol_shows_them_first():
    image = torch.randint(256, (3, 40, 60), dtype=torch.uint8)
    label = torch.arange(60, dtype=torch.uint8).expand(40, 60)
    protocol = Protocol(resize_short=20, antialias=True)
    seen, ids = model_view(image, label, protocol)
    assert torch.equal(seen, (show_first(image[None], protocol)[0] * 255).round().to(torch.uint8))
    assert ids.shape == seen.shape[1:] == (20, 30)
    unchanged, own = model_view(image, label, Protocol())
    assert torch.equal(unchanged, image)
    assert torch.equal(own, label)
    window, ids = model_view(image, label, Protocol("slide", crop=(8, 16)))
    assert torch.equal(window, image[:, 16:24, 22:38])
    assert torch.equal(ids, label[16:24, 22:38])


def test_they_are_spread_over_the_data():
    assert spread(10, 2) == [2, 7]
    assert spread(2, 5) == [0, 1]
