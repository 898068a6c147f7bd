"""Plots of token counts over images."""

from stepseg.predict.statistics import plot_statistics


def test_axes_count_in_whole_numbers():
    """Also where all images have as many tokens, and one bar is all there is."""
    record = {"superpatches": {1: 690}, "tokens_per_stage": [690, 678], "exited_per_head": {3: 12}}
    figure = plot_statistics([record] * 3)
    figure.draw_without_rendering()
    shown = [axes for axes in figure.axes if axes.get_visible()]
    ticks = [tick for axes in shown for tick in (*axes.get_xticks(), *axes.get_yticks())]
    assert ticks
    assert all(tick == int(tick) for tick in ticks)
