"""What a picture file holds."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def same_file(tmp_path):
    """same_file(draw): draw(file) wrote a PNG, the same bytes twice; returns its pixels."""

    def check(draw):
        files = tmp_path / "new" / "a.png", tmp_path / "new" / "b.png"
        for file in files:
            draw(file)
        assert files[0].read_bytes() == files[1].read_bytes()
        return np.asarray(Image.open(files[0]).convert("RGB"))

    return check
