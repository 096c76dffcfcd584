"""One picture per row and column, in their order, on one scale."""

import numpy as np
import pytest

from bkdinterp.errors import BkdinterpError
from bkdinterp.plotting import picture_rows


def test_pictures_stand_in_their_rows_and_columns():
    rows = {"mask": np.arange(12).reshape(3, 2, 2) / 12, "pattern": np.zeros((3, 2, 2))}
    figure = picture_rows(rows, ["a", "b", "c"], title="t")
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_xticklabels()] == ["a", "b", "c"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["mask", "pattern"]
    # Where a label stands, there is its picture, upright.
    centres = {}
    for image in axes.images:
        left, right, bottom, top = image.get_extent()
        assert bottom > top and axes.yaxis_inverted()
        centres[round((left + right) / 2, 6), round((bottom + top) / 2, 6)] = image
    for y, name in zip(axes.get_yticks(), rows, strict=True):
        for k, x in enumerate(axes.get_xticks()):
            shown = centres.pop((round(x, 6), round(y, 6)))
            np.testing.assert_allclose(shown.get_array(), rows[name][k])
            assert shown.get_clim() == (0, 1) and shown.origin == "upper"
    assert not centres


def test_the_scale_is_drawn_and_cut_off():
    figure = picture_rows({"mask": np.full((2, 3, 3), 0.5)}, ["a", "$b$ $"], label="how much", limit=0.25)
    (axes,) = figure.axes
    (bar,) = axes.child_axes
    assert bar.get_ylabel() == "how much" and axes.images[1].get_clim() == (0, 0.25)
    figure.draw_without_rendering()  # a dollar sign is no formula
    with pytest.raises(BkdinterpError, match="positive"):
        picture_rows({"mask": np.zeros((1, 2, 2))}, ["a"], limit=0)


def test_the_scale_is_as_high_as_the_pictures():
    figure = picture_rows(
        {"mask": np.zeros((10, 8, 8)), "pattern": np.zeros((10, 8, 8))}, "0123456789", label="x"
    )
    figure.draw_without_rendering()
    (axes,) = figure.axes
    pictures, bar = (a.get_window_extent() for a in (axes, axes.child_axes[0]))
    assert (bar.y0, bar.y1) == pytest.approx((pictures.y0, pictures.y1))


def test_a_picture_is_missing():
    for rows, columns in (
        ({}, ["a"]),
        ({"mask": np.zeros((2, 2, 2))}, ["a"]),
        ({"mask": np.zeros((1, 2, 2))}, []),
        ({"mask": np.zeros((1, 2, 2)), "pattern": np.zeros((1, 2, 3))}, ["a"]),
    ):
        with pytest.raises(BkdinterpError, match="one picture each"):
            picture_rows(rows, columns)
