"""The command, as tests call it."""
import contextlib
import io

from semgan_nb import cli


def say(*argv):
    "Status, output and complaint of the command."
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main([str(arg) for arg in argv])
    return status, out.getvalue(), err.getvalue()
