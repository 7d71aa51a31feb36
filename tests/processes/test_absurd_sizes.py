"""Chapter 12: files that promise absurd sizes, read in a process whose memory is watched."""

import subprocess
import sys
from pathlib import Path

import pytest

# ---- what vendors write ----


# ---- pixels come out exactly, or not at all ----


BOMBS = r"""
import struct, sys, zlib, lzma, resource, time
from pathlib import Path
import numpy as np
sys.path.insert(0, {tests!r})
import vendor_files as made
from semgan_nb.foundation import BadInput
from semgan_nb.micrographs import read_micrograph
folder = Path({folder!r})
noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
def patched(name, data, *changes):
    data = bytearray(data)
    for at, value in changes: data[at:at + len(value)] = value
    (folder / name).write_bytes(bytes(data))
def claim(name, w, h, **options):                                    # a small TIFF that claims to be large
    path = made.tiff(folder / name, noise, **options)
    data = path.read_bytes()
    for tag, old, new in ((256, 64, w), (257, 64, h), (278, 64, h)):
        data = data.replace(struct.pack("<HHII", tag, 4, 1, old), struct.pack("<HHII", tag, 4, 1, new))
    path.write_bytes(data)
zeros = zlib.compress(bytes(300 * 10**6))
made.tiff(folder / "strip.tif", noise, compression=8, encode=lambda d: zeros)          # 4096 bytes expected, 300 million inside
made.tiff(folder / "xz.tif", noise, compression=34925, encode=lambda d, x=lzma.compress(bytes(300 * 10**6), preset=0): x)
made.tiff(folder / "bits.tif", noise, compression=32773, encode=lambda d: b"\x81\0" * 10**6)
for kind, encode in ((1, bytes), (5, made.lzw), (8, zlib.compress), (32773, made.packbits)):
    for w, h in ((900000, 900000), (17000, 17000), (2**31, 2), (2**32 - 1, 2**32 - 1), (16384, 16384)):
        claim(f"claim{{kind}}-{{w}}-{{h}}.tif", w, h, compression=kind, encode=encode)
path = made.tiff(folder / "tile.tif", noise, tile=(64, 64), compression=8, encode=zlib.compress)
data = path.read_bytes()
for tag in (322, 323): data = data.replace(struct.pack("<HHII", tag, 4, 1, 64), struct.pack("<HHII", tag, 4, 1, 30000))
path.write_bytes(data)
piece = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
for w, h in ((100000, 100000), (2**31 - 1, 2**31 - 1), (17000, 17000)):
    for depth, colour in ((8, 0), (16, 6), (1, 0)):
        (folder / f"p{{w}}-{{depth}}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + piece(b"IHDR", struct.pack(">IIBBBBB", w, h, depth, colour, 0, 0, 0)) + piece(b"IDAT", zlib.compress(bytes(10**6))) + piece(b"IEND", b""))
(folder / "long.png").write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s", 2**31 - 5, b"IDAT"))
for bits, rle in ((24, 0), (8, 1), (32, 0)):
    (folder / f"b{{bits}}.bmp").write_bytes(b"BM" + struct.pack("<IHHI", 2000, 0, 0, 54 + 1024) + struct.pack("<IiiHHIIiiII", 40, 17000, 17000, 1, bits, rle, 0, 0, 0, 0, 0) + bytes(3000))
from PIL import Image
Image.fromarray(noise).save(folder / "j.jpg")
data = (folder / "j.jpg").read_bytes()
at = data.find(b"\xff\xc0")
for n, (w, h) in enumerate(((65500, 65500), (17000, 17000))): patched(f"j{{n}}.jpg", data, (at + 5, struct.pack(">HH", h, w)))
(folder / "j.jpg").unlink()
(folder / "text.tif").unlink(missing_ok=True)
del data, zeros
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
peak = lambda: int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1])
try: open("/proc/self/clear_refs", "w").write("5")
except OSError: pass
start = peak()
for path in sorted(folder.iterdir()):
    began = time.time()
    try: print("READ", path.name, read_micrograph(path, force=True))
    except BadInput as error: assert path.name in str(error) and "\n" not in str(error)
    print(path.name, (peak() - start) // 1024, "MB", round(time.time() - began, 2), "s")
    assert time.time() - began < 20, path.name
    if peak() - start > 200 * 1024: print("MEMORY", path.name)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads its peak memory from /proc")
def test_absurd_sizes_are_refused_before_memory_is_taken(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", BOMBS.format(tests=str(Path(__file__).parents[1]), folder=str(tmp_path))],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "MEMORY" not in done.stdout and "READ" not in done.stdout.replace("READ strip", "").replace(
        "READ xz", ""
    ).replace("READ bits", ""), done.stdout
    assert done.stdout.count(" MB ") > 35
