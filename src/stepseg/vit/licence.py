"""The licence of pretrained weights, which goes on in what is trained from them."""

import timm


def licence_of(name: str | None) -> str | None:
    """As timm gives it, by the name of its weights with their tag; None: it knows none."""
    if not name or not timm.is_model(name.split(".")[0]):
        return None
    try:
        config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:
        return None
    return config.license if config else None
