"""Programs for tests that need not be started anew: `Popen` and `run` take what those of `subprocess` take, for
commands that begin with this interpreter, and fork the program from a server
that has imported PyTorch, matplotlib and all of the package, and has used none of it. What a test asserts about a
fresh interpreter (what is imported, how long that takes, what is read from the
environment at an import, a launcher) stays with `subprocess`. Where there is no forking from such a process (not
Linux), the program is started anew.

The server is a process of this file, one for all workers of a pytest, begun when the first program is asked for; it
ends when that pytest does. For every program it forks a keeper, which forks the
program, says its number, and at its end how it ended."""

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

PIPE, STDOUT, DEVNULL = subprocess.PIPE, subprocess.STDOUT, subprocess.DEVNULL
POSSIBLE = sys.platform.startswith("linux")
FRESH = subprocess.Popen  # as it is, whatever `instead_of_subprocess` puts there
OWNER = "SEMGAN_TESTS_OWNER"  # the environment variable with the number of the process of pytest


# -- the server
# -----------------------------------------------------------------------------------------------------------


def warm_up():
    """Import what takes long, and nothing that begins a thread: only the forking thread lives on in a fork. The
    first optimiser of a process imports torch._dynamo, 1.6 s of work."""
    import importlib
    import pkgutil

    for name in (
        "torch",
        "torch.distributed",
        "torch._dynamo",
        "matplotlib.pyplot",
        "scipy.ndimage",
        "scipy.linalg",
        "safetensors.torch",
        "PIL.Image",
        "IPython",
        "execnb.shell",
        "ipywidgets",
        "nbformat",
        "pytest",
    ):
        try:
            importlib.import_module(name)
        except ImportError:
            pass
    import semgan_nb

    for module in pkgutil.walk_packages(semgan_nb.__path__, "semgan_nb."):
        importlib.import_module(module.name)


def receive(link, n):
    """Exactly n bytes; fewer only where the other side is gone."""
    data = b""
    while len(data) < n and (more := link.recv(n - len(data))):
        data += more
    return data


def alive(pid):
    with contextlib.suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True


def address(owner):
    return f"\0semgan-tests-{owner}"  # without a file


def serve(listening, owner):
    """Fork a program for each request; returns in the forks, with the request. Ends with the owner."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for pytest
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers need nobody to wait for them
    while alive(owner):
        if not select.select([listening], [], [], 1)[0]:
            continue
        link, _ = listening.accept()
        if (
            struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1] != os.getuid()
            or os.fork()
        ):
            link.close()
            continue
        listening.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        head, fds, _, _ = socket.recv_fds(link, 8, 3)
        if len(head) < 8:
            os._exit(0)
        request = receive(link, struct.unpack("<Q", head)[0])
        ready, go = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(go), link.close()
            os.read(ready, 1), os.close(ready)  # its number is known by now
            return json.loads(request), fds
        for fd in (ready, *fds):
            os.close(fd)
        with contextlib.suppress(OSError):  # nobody may be interested any more
            link.sendall(struct.pack("<q", pid))
            os.close(go)
            link.sendall(struct.pack("<q", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
        os._exit(0)
    os._exit(0)


def become(request, fds):
    """Make this fork the program that was asked for, as far as a program can tell."""
    if request["new_session"]:
        os.setsid()
    for n, fd in enumerate(fds):
        os.dup2(fd, n)
        os.set_inheritable(n, True)
    for fd in fds:
        if fd > 2:
            os.close(fd)
    for n, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        stream = open(
            n,
            mode,
            buffering=1 if n == 2 else -1,
            encoding="utf-8",
            errors="backslashreplace" if n == 2 else "strict",
            closefd=False,
        )
        setattr(sys, name, stream), setattr(sys, f"__{name}__", stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear(), os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    sys.argv, sys.path[:] = request["argv"], request["path"]
    keeper = os.getppid
    os.getppid = lambda: request["parent"] if alive(request["parent"]) else keeper()  # the one who asked for it
    import numpy as np

    np.random.seed()  # each program its own numbers, as if it were started anew
    if "MPLBACKEND" in os.environ:
        import matplotlib

        matplotlib.rcParams["backend"] = os.environ["MPLBACKEND"]


# -- the side of the tests
# ------------------------------------------------------------------------------------------------


def connect():
    """A connection to the server, which is begun if there is none yet; it may still be importing."""
    owner = int(os.environ.setdefault(OWNER, str(os.getpid())))
    begun = None
    for _ in range(1200):
        link = socket.socket(socket.AF_UNIX)
        try:
            link.connect(address(owner))
            return link
        except ConnectionRefusedError:
            link.close()
        if begun is None or begun.poll():
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
            begun = FRESH(
                [sys.executable, __file__, str(owner)], env=environment, stdin=DEVNULL, start_new_session=True
            )
        time.sleep(0.05)
    raise RuntimeError("the server that programs are forked from does not answer")


def fork(request, fds):
    """The number of the process, and the connection by which its end will be told."""
    link, body = connect(), json.dumps(request).encode()
    socket.send_fds(link, [struct.pack("<Q", len(body))], fds)
    link.sendall(body)
    return struct.unpack("<q", receive(link, 8))[0], link


RUNNING = set()


@atexit.register
def _end_all():
    for process in list(RUNNING):
        process.kill()


class Popen:
    """A program as `subprocess.Popen` has it: its streams, its number, signals to it, its end."""

    def __new__(cls, args, **options):
        command = [os.fspath(arg) for arg in args]
        assert command[0] == sys.executable, "only programs of this interpreter can be forked"
        return super().__new__(cls) if POSSIBLE else FRESH(command, **options)

    def __init__(
        self, args, *, stdin=None, stdout=None, stderr=None, cwd=None, env=None, text=False, start_new_session=False
    ):
        self.args, self.returncode, self._read = [os.fspath(arg) for arg in args], None, {}
        ours, theirs, opened = [None, None, None], [], []
        for n, wanted in enumerate((stdin, stdout, stderr)):
            if wanted is PIPE:
                reading, writing = os.pipe()
                theirs.append(writing if n else reading)
                mode = ("r" if n else "w") + ("" if text else "b")
                ours[n] = open(
                    reading if n else writing,
                    mode,
                    **(dict(encoding="utf-8", buffering=-1 if n else 1) if text else {}),
                )
                opened.append(theirs[-1])
            elif wanted is DEVNULL or wanted is None and n == 0:
                theirs.append(os.open(os.devnull, os.O_RDWR))
                opened.append(theirs[-1])
            elif wanted is STDOUT:
                theirs.append(theirs[1])
            else:
                theirs.append(n if wanted is None else wanted if isinstance(wanted, int) else wanted.fileno())
        self.stdin, self.stdout, self.stderr = ours
        request = dict(
            argv=self.args[1:],
            environment=dict(os.environ if env is None else env),
            cwd=os.path.abspath(cwd or os.getcwd()),
            path=sys.path,
            new_session=start_new_session,
            parent=os.getpid(),
        )
        try:
            self.pid, self._told = fork(request, theirs)
        finally:
            for fd in opened:
                os.close(fd)
        RUNNING.add(self)

    def poll(self):
        return self._ended(0)

    def _ended(self, seconds):
        if self.returncode is None:
            self._told.settimeout(seconds)
            try:
                said = receive(self._told, 8)
            except (TimeoutError, BlockingIOError):
                return None
            self.returncode = struct.unpack("<q", said)[0] if len(said) == 8 else -signal.SIGKILL
            self._told.close()
            RUNNING.discard(self)
        return self.returncode

    def wait(self, timeout=None):
        if self._ended(timeout) is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def communicate(self, input=None, timeout=None):
        """What the program wrote from now to its end. After a TimeoutExpired it can be asked again."""
        end = None if timeout is None else time.monotonic() + timeout
        left = lambda: None if end is None else max(end - time.monotonic(), 0)
        if self.stdin and not self.stdin.closed:
            with self.stdin as stream:
                if input:
                    stream.write(input)
        for name in ("stdout", "stderr"):
            stream = getattr(self, name)
            if stream and name not in self._read:
                found = []
                thread = threading.Thread(
                    target=lambda stream=stream, found=found: found.append(stream.read()), daemon=True
                )
                thread.start()
                self._read[name] = thread, found
        for thread, _ in self._read.values():
            thread.join(left())
            if thread.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout)
        self.wait(left())
        for name in self._read:
            getattr(self, name).close()
        return tuple(self._read[name][1][0] if name in self._read else None for name in ("stdout", "stderr"))

    def send_signal(self, number):
        if self.poll() is None:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass  # it has just ended

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for stream in (self.stdout, self.stderr, self.stdin):
            if stream:
                stream.close()
        self.wait()


def run(args, *, input=None, capture_output=False, timeout=None, check=False, **options):
    """The program from beginning to end."""
    if capture_output:
        options.update(stdout=PIPE, stderr=PIPE)
    if input is not None:
        options.update(stdin=PIPE)
    process = Popen(args, **options)
    try:
        said, complained = process.communicate(input, timeout)
    except BaseException:
        process.kill(), process.wait()
        raise
    done = subprocess.CompletedProcess(process.args, process.returncode, said, complained)
    if check:
        done.check_returncode()
    return done


def instead_of_subprocess(args, *more, **options):
    """What `subprocess.Popen` is for a test or a chapter whose subject starts programs of this interpreter by
    itself: these are forked too, all others started."""
    if not more and isinstance(args, (list, tuple)) and [os.fspath(arg) for arg in args[:2]] == [sys.executable, "-c"]:
        return Popen(args, **options)
    return FRESH(args, *more, **options)


def start_call(function, *args, **options):
    """A program that calls a function of a module with arguments that JSON can hold."""
    code = (
        "import importlib, json, sys; module, name, args = json.loads(sys.argv[1]);"
        " getattr(importlib.import_module(module), name)(*args)"
    )
    return Popen(
        [sys.executable, "-c", code, json.dumps([function.__module__, function.__qualname__, args])], **options
    )


def program(argv):
    """Run what the interpreter was to run; its exit status, or the signal that ends it as a negative number. What it
    begins itself is forked too."""
    import runpy
    import traceback
    import types

    subprocess.Popen = instead_of_subprocess
    try:
        if argv[0] == "-c":
            sys.argv = ["-c", *argv[2:]]
            sys.path.insert(0, "")
            sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(argv[1], "<string>", "exec"), sys.modules["__main__"].__dict__)
        elif argv[0] == "-m":
            sys.argv = argv[1:]
            runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str(Path(argv[0]).resolve().parent))
            runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 255
        print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        return -signal.SIGINT
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def leave(status):
    """The end of a program, but for taking apart what it shares with the server: that would copy all of it."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    import gc

    listening = socket.socket(socket.AF_UNIX)
    try:
        listening.bind(address(sys.argv[1]))
    except OSError:
        sys.exit()  # another one is there already
    listening.listen(64)
    gc.disable()  # what is imported stays
    warm_up()
    gc.enable()
    gc.collect(), gc.freeze()  # a fork that looked through all of it for garbage would copy all of it
    request, fds = serve(listening, int(sys.argv[1]))
    become(request, fds)
    leave(program(request["argv"]))
