"""A notebook's kernel that is forked (see forked.py) from a process that has imported what a dashboard needs:
`python forked_kernel.py -f CONNECTION`. What Jupyter tells this process, it passes on."""

import json
import signal
import sys

import forked


def kernelspec(folder):
    """Make every notebook's Python such a kernel, for a Jupyter whose JUPYTER_PATH is this folder."""
    place = folder / "kernels" / "python3"
    place.mkdir(parents=True, exist_ok=True)
    (place / "kernel.json").write_text(
        json.dumps(
            dict(
                argv=[sys.executable, __file__, "-f", "{connection_file}"],
                display_name="Python 3 (ipykernel)",
                language="python",
                metadata=dict(debugger=True),
            )
        )
    )


if __name__ == "__main__":
    kernel = forked.Popen([sys.executable, "-m", "ipykernel_launcher", *sys.argv[1:]])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: kernel.send_signal(number))
    sys.exit(kernel.wait())
