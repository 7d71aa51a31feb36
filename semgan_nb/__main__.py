"""`python -m semgan_nb` is the `semgan` command, where the folder of scripts is not on the path."""
from semgan_nb import _command

if __name__ == "__main__":
    raise SystemExit(_command())
