"""A page of people under several cameras."""

from __future__ import annotations

import numpy as np
import pytest

from fastreid_parts.pedestrians import contact_sheet

from .tiny import SIZE


def test_people_by_views_and_cameras() -> None:
    sheet = contact_sheet(identities=2, views=1, cameras=2, size=SIZE)
    assert sheet.dtype == np.uint8 and sheet.shape[0] > 2 * SIZE[0] and sheet.shape[1] > 2 * SIZE[1]
    with pytest.raises(ValueError, match="start at 1"):
        contact_sheet(views=0)
