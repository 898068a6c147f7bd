"""The drawing of generated street scenes, see `street.draw_scene`."""
