"""Pictures of one image and what tokens did to it."""
