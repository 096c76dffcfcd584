"""One picture per row and column, in their order, on one scale."""

import numpy as np
import pytest

from bkdinterp.errors import BkdinterpError
from bkdinterp.plotting import picture_rows


def test_pictures_stand_in_their_rows_and_columns():
    rows = {"mask": np.arange(12).reshape(3, 2, 2) / 12, "pattern": np.zeros((3, 2, 2))}
    figure = picture_rows(rows, ["a", "b", "c"], title="t")
    assert len(figure.axes) == 6
    assert [ax.get_title() for ax in figure.axes[:3]] == ["a", "b", "c"]
    assert [figure.axes[i].get_ylabel() for i in (0, 3)] == ["mask", "pattern"]
    shown = figure.axes[1].images[0]
    np.testing.assert_allclose(shown.get_array(), rows["mask"][1])
    assert shown.get_clim() == (0, 1)


def test_a_picture_is_missing():
    for rows, columns in (
        ({}, ["a"]),
        ({"mask": np.zeros((2, 2, 2))}, ["a"]),
        ({"mask": np.zeros((1, 2, 2))}, []),
    ):
        with pytest.raises(BkdinterpError, match="one picture each"):
            picture_rows(rows, columns)
