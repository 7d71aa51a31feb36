"""The command, as tests call it."""

import contextlib
import io

import pytest

from semgan_nb import cli
from semgan_nb.foundation import BadInput


def say(*argv):
    "Status, output and complaint of the command."
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main([str(arg) for arg in argv])
    return status, out.getvalue(), err.getvalue()


def said(function, *args, **options):
    "The one sentence with which a function refuses."
    with pytest.raises(BadInput) as caught:
        function(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
