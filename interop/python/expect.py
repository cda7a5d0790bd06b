"""What a check waits for, and the refusals that it wants."""

import re
import time
from contextlib import contextmanager

import pytest
from msrest.exceptions import HttpOperationError


def until(look, seconds=30):
    """The first true value of `look`, which is tried again and again."""
    end = time.monotonic() + seconds
    while not (value := look()):
        assert time.monotonic() < end, f"not seen within {seconds} s"
        time.sleep(0.1)
    return value


@contextmanager
def refused(status, text=""):
    """A call of the service SDK that the hub refuses, with this status and a body that fits."""
    with pytest.raises(HttpOperationError) as caught:
        yield
    response = caught.value.response
    assert response.status_code == status
    assert re.search(text, response.text)
