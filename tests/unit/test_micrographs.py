"""Chapters 10 to 12: reading, refusing, the data bar."""

import csv
import io
import lzma
import os
import random
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import vendor_files as made
from PIL import Image, ImageDraw, ImageFont
from vendor_files import with_bar

from semgan_nb.foundation import BadInput, atomic
from semgan_nb.image_files import stack_pages
from semgan_nb.micrographs import (
    LabelMap,
    Micrograph,
    embedded,
    find_bar,
    grey_range,
    list_images,
    read_micrograph,
    show,
    to_uint8,
    write_scale,
)
from semgan_nb.synthetic import dual_phase, phase_fraction


@pytest.fixture(scope="module")
def image():
    return np.asarray(Image.open(embedded() / "spot2_0d_0.png"))


@pytest.fixture(scope="module")
def steel():
    return dual_phase(np.random.default_rng(0), 512, 0.5, field_um=51.2)[0]


def jpeg(image, quality=85):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


BARS = [
    dict(),
    dict(background=255, ink=0),
    dict(frame=2),
    dict(background=255, ink=0, frame=3),
    dict(background=40, ink=230),
    dict(background=200, ink=10, frame=1),
    dict(over=True),
    dict(background=255, ink=0, over=True, frame=1),
    dict(frame=2, gap=2),
]


@pytest.mark.parametrize("rows", [30, 44, 70, 100, 140])
@pytest.mark.parametrize("kind", BARS, ids=str)
def test_bar_is_found(image, steel, rows, kind):
    for picture in (image, steel):
        barred = with_bar(picture, rows, **kind)
        assert find_bar(barred) == rows
        assert abs(find_bar(jpeg(barred)) - rows) <= 2
    assert find_bar(barred.astype(np.uint16) * 16) == rows


def test_blanked_bar_is_found(image):
    assert find_bar(with_bar(image, 60, text=False)) == 60


def test_nothing_is_cut_where_there_is_no_bar():
    for path in list_images(embedded()):
        assert find_bar(np.asarray(Image.open(path))) == 0
    rng = np.random.default_rng(1)
    for k in range(12):
        assert find_bar(dual_phase(rng, 128, 0.05 + 0.08 * k)[0]) == 0
    y, x = np.indices((300, 300))
    specimen = rng.normal(110, 15, (300, 300)).clip(0, 255)
    for edge in (220 + 5 * np.sin(x / 15), 200 + x / 10, 240 + rng.normal(0, 3, 300).cumsum()[None] / 10):
        for mount in (0, 2, 30):  # vacuum or mount below an edge
            image = np.where(y < edge, specimen, rng.normal(mount, mount / 10, (300, 300)).clip(0, 255))
            assert find_bar(image.astype(np.uint8)) == 0
    assert find_bar(np.full((200, 200), 7, np.uint8)) == 0


def test_real_files_of_a_folder():
    folder = os.environ.get("SEMGAN_REAL_SEM")
    if not folder:
        pytest.skip("SEMGAN_REAL_SEM does not name a folder with uhcs/, nbt-ceramic/ and nasa-superalloy/")
    with open(Path(folder) / "uhcs" / "metadata.csv", newline="") as table:
        bars = {
            row["path"]: 1000 * float(row["micron_bar"]) / float(row["micron_bar_px"]) for row in csv.DictReader(table)
        }
    seen = 0
    for name, shape, rows in (
        ("uhcs", (522, 645), 38),
        ("nbt-ceramic", (943, 1024), 59),
        ("nasa-superalloy", (512, 512), 0),
    ):
        for path in list_images(Path(folder) / name):
            if "masks" in path.parts:
                with pytest.raises(LabelMap):
                    read_micrograph(path)
                continue
            m = read_micrograph(path)
            assert m.pixels.shape == shape and m.pixels.dtype == np.uint8
            assert abs(m.bar_rows - rows) <= 2 and abs(find_bar(m.pixels) - rows) <= 2, path.name
            assert find_bar(m.image) == 0, path.name
            if name == "nbt-ceramic":
                assert m.pixel_size_nm[1] == pytest.approx(29.14, rel=1e-3) or m.pixel_size_nm[1] == pytest.approx(
                    72.85, rel=1e-3
                )
                assert m.tags["voltage_kv"] == 15 and 10 < m.tags["working_distance_mm"] < 12
            elif (
                name == "uhcs" and path.suffix == ".tif"
            ):  # files of analySIS, whose record agrees with the bar: 5 µm on 129 pixels and so on, to 1.5 %
                assert (
                    m.tags["vendor"] == "Olympus SIS"
                    and bars[path.name] / 1.005 < m.pixel_size_nm[1] < bars[path.name] * 1.016
                )
            else:
                assert m.pixel_size_nm is None
            seen += 1
    assert seen == 67


def test_forms_of_grey(tmp_path, image):
    rgb = np.repeat(image[..., None], 3, 2)
    Image.fromarray(image).save(tmp_path / "l.png")
    Image.fromarray(rgb).save(tmp_path / "rgb.bmp")
    Image.fromarray(np.dstack([rgb, np.full_like(image, 255)])).save(tmp_path / "rgba.png")
    Image.fromarray(np.dstack([image, np.full_like(image, 255)])).save(tmp_path / "la.png")
    tifffile.imwrite(tmp_path / "rgb.tif", rgb, photometric="rgb")
    tifffile.imwrite(tmp_path / "planar.tif", rgb.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    tifffile.imwrite(tmp_path / "packed.tif", image, compression="zlib", predictor=True)
    Image.fromarray(image).save(tmp_path / "lzw.tif", compression="tiff_lzw")
    tifffile.imwrite(tmp_path / "inverted.tif", 255 - image, photometric="miniswhite")
    shuffled = np.random.default_rng(0).permutation(256).astype(np.uint8)  # a palette whose order is not that of grey
    palette = Image.fromarray(np.argsort(shuffled).astype(np.uint8)[image])
    palette.putpalette(np.repeat(shuffled[:, None], 3, 1).ravel().tolist())
    palette.save(tmp_path / "palette.png")
    palette.save(tmp_path / "palette.tif")
    for path in list_images(tmp_path):
        assert (read_micrograph(path).pixels == image).all(), path.name


def test_depth_is_kept(tmp_path, image):
    deep = image.astype(np.uint16) * 251
    tifffile.imwrite(tmp_path / "a.tif", deep)
    tifffile.imwrite(tmp_path / "big.tif", deep, byteorder=">")
    Image.fromarray(deep).save(tmp_path / "b.png")
    tifffile.imwrite(tmp_path / "rgb.tif", np.repeat(deep[..., None], 3, 2), photometric="rgb")
    for path in list_images(tmp_path):
        m = read_micrograph(path)
        assert m.pixels.dtype == np.uint16 and (m.pixels == deep).all(), path.name
    tifffile.imwrite(tmp_path / "f.tif", image.astype(np.float32) / 3)
    assert read_micrograph(tmp_path / "f.tif").pixels.dtype == np.float32


def test_eight_bits(image):
    assert to_uint8(image) is image
    assert (to_uint8(image.astype(np.uint16) * 257) == image).all()
    assert to_uint8(np.array([[0, 4095]], np.uint16)).tolist() == [[0, 255]]
    assert to_uint8(np.array([[0, 4095]], np.uint16), white=65535).tolist() == [[0, 16]]
    assert to_uint8(np.array([[False, True]])).tolist() == [[0, 255]]
    assert to_uint8(np.array([[-5, 5]], np.int16)).tolist() == [[0, 255]]


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.uint32, np.float32])
def test_single_pixels_set_no_range(tmp_path, steel, dtype):
    """A hot pixel, a dead one, a line of overlay: the specimen keeps its levels, and its phase fraction."""
    deep = steel.astype(dtype) * 4 + 300
    for k, spot in enumerate((np.s_[9, 9], np.s_[9:11, 30:90], np.s_[5:10, 7])):
        bad = deep.copy()
        bad[spot] = 32767 if dtype == np.int16 else 65535
        bad[400, 400] = 0
        tifffile.imwrite(tmp_path / f"{k}.tif", bad)
        m = read_micrograph(tmp_path / f"{k}.tif", bar=0)
        assert (m.pixels == bad).all() and m.tags["levels"] > 150 and not m.tags["warnings"]
        assert (
            m.tags["grey_range"] == pytest.approx(np.percentile(deep, [0.1, 99.9]), rel=0.01)
            and abs(phase_fraction(to_uint8(m.image)) - phase_fraction(steel)) < 0.01
        )


def test_marks_set_no_range(steel):
    """A scale bar and letters of 2 % at the end of the scale; but a saturated specimen keeps its white."""
    deep = steel.astype(np.uint16) * 4 + 300
    clean = to_uint8(deep)
    for level in (65535, 0):
        marked = deep.copy()
        marked[440:470, 300:480] = level
        assert abs(to_uint8(marked)[:400].astype(int) - clean[:400]).max() <= 1
    bright = np.clip(steel * (65535 / np.percentile(steel, 98)), 0, 65535).astype(np.uint16)
    assert 0.001 < (bright == 65535).mean() < 0.05 and grey_range(bright)[1] == 65535


def test_an_eight_bit_image_that_was_saved_with_sixteen_comes_back(image):
    for deep in (image.astype(np.uint16) * 257, image.astype(np.uint16) << 8):
        assert (to_uint8(deep) == image).all()


def test_few_grey_levels_are_said(tmp_path, image):
    tifffile.imwrite(tmp_path / "a.tif", (image // 5).astype(np.uint16) * 999)
    tifffile.imwrite(tmp_path / "b.tif", image // 4 * 4)
    for name in "ab":
        m = read_micrograph(tmp_path / f"{name}.tif")
        assert m.tags["levels"] < 32 and "grey levels" in m.tags["warnings"][0]
    assert (
        read_micrograph(embedded() / "spot1_0d_0.png").tags["levels"] > 60
        and "grey_range" not in read_micrograph(embedded() / "spot1_0d_0.png").tags
    )


@pytest.mark.parametrize("rows", [44, 100])
def test_a_bar_over_a_specimen_of_few_values_is_found(image, steel, rows):
    """16-bit files whose specimen uses a hundredth of the scale and whose bar uses all of it, or lies wholly below
    or above it."""
    for picture in (image, steel):
        barred = with_bar(picture, rows)
        specimen, written = barred[:-rows].astype(np.uint16), barred[-rows:] > 128
        for gain, offset in ((1, 100), (2, 30000), (4, 65535 - 1100)):
            for ground, ink in ((0, 65535), (65535, 0), (10, 90), (20000, 65535)):
                deep = np.vstack([specimen * gain + offset, np.where(written, ink, ground).astype(np.uint16)])
                assert find_bar(deep) == rows and find_bar(deep.astype(np.float32)) == rows, (gain, offset, ground)
    rng = np.random.default_rng(0)  # a straight edge with a noisy vacuum below is none
    vacuum = np.where(
        np.indices((300, 300))[0] < 220, rng.normal(3000, 200, (300, 300)), rng.normal(100, 9, (300, 300))
    ).astype(np.uint16)
    assert find_bar(vacuum) == 0


@pytest.mark.parametrize("rows", [20, 32])
@pytest.mark.parametrize("ground, ink", [(255, 0), (90, 0)])
def test_a_bar_on_the_range_of_the_type_is_found(image, rows, ground, ink):
    """16-bit files whose bar has a background or ink that the specimen does not reach, below it or over it, and
    floats with a hot pixel: neither too few rows, nor dark rows of the image beside it."""
    specimen, bar = image[:256, :320], with_bar(image[:256, :320], rows, ground, ink)[256:].astype(np.uint16) * 257
    for grey in (specimen * np.uint16(16), specimen * np.uint16(2) + np.uint16(100)):
        assert find_bar(np.vstack([grey, bar])) == rows
        assert find_bar(np.vstack([grey[:-rows], bar])) == rows
    hot = np.vstack([specimen, bar // 257]).astype(np.float32) / 255
    hot[10, 10] = 50
    assert find_bar(hot) == rows and find_bar(hot[:-rows]) == 0


@pytest.mark.filterwarnings("error")
def test_floats_of_any_magnitude(tmp_path, image):
    "float64 beyond float32: no warning of numpy's on the screen, and the grey levels of the same image."
    values = with_bar(image[:200], 40).astype(np.float64) - 100
    for k, gain in enumerate((1, 1e200, 1e-310, 1.1e306)):  # the last: a range that has no float64
        tifffile.imwrite(tmp_path / f"{k}.tif", values * gain)
        m = read_micrograph(tmp_path / f"{k}.tif")
        assert m.bar_rows == 40 and not m.tags["warnings"], gain
        expected = to_uint8(values[:200])
        assert abs(to_uint8(m.image).astype(int) - expected).max() <= 1, gain


def test_zeiss_palette_is_read_by_its_indices(tmp_path, image):
    text = "0\r\n0\r\n0\r\n0\r\nAP_MAG\r\nMag = 105 X\r\n\0"
    colours = np.arange(256, dtype=np.uint16)[None].repeat(3, 0) * 257
    colours[:, 9:240:9] = 65535  # annotation colours in between, as that vendor does
    tifffile.imwrite(
        tmp_path / "z.tif",
        image,
        photometric="palette",
        colormap=colours,
        extratags=[(34118, 2, len(text), text, True)],
        metadata=None,
    )
    m = read_micrograph(tmp_path / "z.tif")
    assert (m.pixels == image).all() and m.pixel_size_nm is None and m.tags["vendor"] == "Zeiss"
    tifffile.imwrite(tmp_path / "p.tif", image, photometric="palette", colormap=colours[:, ::-1].copy(), metadata=None)
    assert (read_micrograph(tmp_path / "p.tif").pixels == (colours[0, ::-1] >> 8)[image]).all()


def test_scale_only_from_a_record(tmp_path, image):
    Image.fromarray(image).save(tmp_path / "dpi.tif", dpi=(72, 72))
    Image.fromarray(image).save(tmp_path / "dpi.png", dpi=(300, 300))
    Image.fromarray(image).save(tmp_path / "dpi.jpg", dpi=(96, 96))
    tifffile.imwrite(tmp_path / "plain.tif", image, resolution=(5e6, 5e6), resolutionunit="CENTIMETER")
    tifffile.imwrite(tmp_path / "inch.tif", image, imagej=True, resolution=(72, 72), metadata={"unit": "inch"})
    tifffile.imwrite(tmp_path / "none.tif", image, imagej=True, resolution=(2, 2))
    for path in list_images(tmp_path):
        assert read_micrograph(path).pixel_size_nm is None, path.name
    for unit, nm in (("um", 1e3), ("micron", 1e3), ("\\u00B5m", 1e3), ("nm", 1), ("mm", 1e6)):
        tifffile.imwrite(tmp_path / "ij.tif", image, imagej=True, resolution=(4, 2), metadata={"unit": unit})
        assert read_micrograph(tmp_path / "ij.tif").pixel_size_nm == pytest.approx((nm / 2, nm / 4)), unit


def fei_tag(width, rows, bar, pixel=4.86e-8):
    text = (
        "[User]\r\nDate=03/04/2022\r\n[System]\r\nSystemType=Quanta\r\n[Beam]\r\nHV=15000\r\nBeam=EBeam\r\n[EBeam]\r\nWD=0.0052\r\n"
        f"[Scan]\r\nPixelWidth={pixel}\r\nPixelHeight={pixel}\r\n[Image]\r\nResolutionX={width}\r\nResolutionY={rows}\r\n"
        f"[Detectors]\r\nName=ETD\r\n[PrivateFei]\r\nDatabarHeight={bar}\r\n\0"
    )
    return [(34682, 2, len(text), text, True)]


def test_fei_record(tmp_path, image):
    barred = with_bar(image, 29)
    tifffile.imwrite(tmp_path / "fei.tif", barred, extratags=fei_tag(512, 512, 29), metadata=None)
    m = read_micrograph(tmp_path / "fei.tif")
    assert m.pixel_size_nm == pytest.approx((48.6, 48.6)) and m.bar_rows == 29 and m.image.shape == (512, 512)
    assert (
        m.tags["vendor"] == "FEI" and m.tags["voltage_kv"] == 15 and m.tags["working_distance_mm"] == pytest.approx(5.2)
    )
    assert m.tags["detector"] == "ETD"
    tifffile.imwrite(tmp_path / "half.tif", image[::2, ::2], extratags=fei_tag(512, 512, 0), metadata=None)
    m = read_micrograph(tmp_path / "half.tif")  # resized after recording: its scale would be wrong
    assert m.pixel_size_nm is None and "resized" in m.tags["warnings"][0]


def test_first_of_many_pages(tmp_path, image):
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([image, 255 - image, image]), photometric="minisblack")
    m = read_micrograph(tmp_path / "stack.tif")
    assert (m.pixels == image).all() and m.tags["pages"] == 3 and "3 pages" in m.tags["warnings"][0]
    tifffile.imwrite(tmp_path / "ij.tif", np.stack([image] * 4), imagej=True)
    m = read_micrograph(tmp_path / "ij.tif")
    assert m.pixels.shape == image.shape and m.tags["pages"] == 4


def damaged(folder, image):
    """Name -> (path, a word its refusal must hold)."""

    def write(name, data):
        (folder / name).write_bytes(data)
        return folder / name

    Image.fromarray(image).save(folder / "ok.png")
    Image.fromarray(image).save(folder / "ok.jpg")
    tifffile.imwrite(folder / "ok.tif", image)
    tifffile.imwrite(folder / "okz.tif", image, compression="zlib", rowsperstrip=32)
    cases = {
        "text": (write("text.png", b"a note, no image\n"), "text file"),
        "lfs": (
            write("lfs.tif", b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n"),
            "git lfs pull",
        ),
        "html": (write("page.jpg", b"<!DOCTYPE html><html>"), "web page"),
        "empty": (write("empty.png", b""), "empty"),
        "binary": (write("binary.tif", bytes(range(256)) * 9), "damaged"),
        "png": (write("cut.png", (folder / "ok.png").read_bytes()[:9000]), "damaged"),
        "jpg": (write("cut.jpg", (folder / "ok.jpg").read_bytes()[:9000]), "damaged"),
        "tif": (write("cut.tif", (folder / "ok.tif").read_bytes()[:90000]), "damaged"),
        "tifz": (write("cutz.tif", (folder / "okz.tif").read_bytes()[:60000]), "damaged"),
        "header": (write("header.tif", b"II*\0\x08\0\0\0"), "damaged"),
    }
    wide = bytearray((folder / "ok.png").read_bytes())
    wide[16:24] = (200_000).to_bytes(4, "big") * 2
    cases["huge png"] = (write("huge.png", bytes(wide)), "")
    tifffile.imwrite(folder / "huge.tif", image)
    with tifffile.TiffFile(folder / "huge.tif", mode="r+") as tif:
        tif.pages[0].tags["ImageWidth"].overwrite(900_000)
        tif.pages[0].tags["ImageLength"].overwrite(900_000)
    cases["huge tif"] = (folder / "huge.tif", "million")
    Image.fromarray(np.dstack([image, 255 - image, image])).save(folder / "colour.png")
    cases["colour"] = (folder / "colour.png", "colour")
    Image.fromarray(np.full((64, 64), 9, np.uint8)).save(folder / "flat.png")
    cases["constant"] = (folder / "flat.png", "every pixel")
    Image.fromarray(with_bar(np.full((200, 400), 90, np.uint8), 40)).save(folder / "flatbar.png")
    cases["constant above its bar"] = (folder / "flatbar.png", "every pixel")
    nan = image.astype(np.float32)
    nan[3, 4] = np.nan
    tifffile.imwrite(folder / "nan.tif", nan)
    cases["nan"] = (folder / "nan.tif", "1 of its values is no finite number")
    Image.fromarray(image // 32).save(folder / "labels.png")
    cases["labels"] = (folder / "labels.png", "force")
    cases["missing"] = (folder / "missing.png", "no such file")
    cases["folder"] = (folder, "folder")
    return cases


def test_refusals_are_one_sentence(tmp_path, image):
    for name, (path, word) in damaged(tmp_path, image).items():
        try:
            pytest.fail(f"{name} was read as {read_micrograph(path)}")
        except BadInput as error:
            text = str(error)
        assert path.name in text and word in text and "\n" not in text and len(text) < 420, (name, text)


def test_a_blank_image_says_where_and_can_be_read_all_the_same(tmp_path, wide):
    barred = with_bar(np.full((442, 512), 90, np.uint8), 29)
    path = made.tiff(tmp_path / "a.tif", barred, [(34682, 2, made.fei())])
    with pytest.raises(
        BadInput, match="every pixel above the data bar of 29 rows has the value 90.*its pixel size is 3372 nm"
    ):
        read_micrograph(path)
    for blank in (path, made.tiff(tmp_path / "deep.tif", barred.astype(np.uint16) * 100, [(34682, 2, made.fei())])):
        m = read_micrograph(blank, force=True)
        assert m.pixel_size_nm == near(3372.4) and m.bar_rows == 29 and np.ptp(to_uint8(m.image)) == 0
    Image.fromarray(np.full((64, 64), 9, np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(BadInput, match="every pixel has the value 9, there"):
        read_micrograph(tmp_path / "b.png")


def test_force(tmp_path, image):
    Image.fromarray((image > 130).astype(np.uint8)).save(tmp_path / "map.png")
    Image.fromarray(np.dstack([image, 255 - image, image])).save(tmp_path / "colour.png")
    with pytest.raises(LabelMap):
        read_micrograph(tmp_path / "map.png")
    assert read_micrograph(tmp_path / "map.png", force=True).pixels.max() == 1
    assert read_micrograph(tmp_path / "colour.png", force=True).pixels.shape == image.shape


def test_colour_in_the_bar_alone_is_no_colour_image(tmp_path, image):
    barred = np.repeat(with_bar(image, 60)[..., None], 3, 2)
    barred[520:560, 10:90] = (30, 60, 200)
    Image.fromarray(barred).save(tmp_path / "logo.png")
    assert (read_micrograph(tmp_path / "logo.png").image == image).all()


@pytest.mark.parametrize("ending", ["png", "tif", "jpg"])
def test_what_is_drawn_in_colour_on_a_grey_image_is_a_mark(tmp_path, image, ending):
    """Up to a fifth of a grey picture may be coloured, with force too; what is coloured elsewhere, or shows nothing
    beside its colours, is a colour image."""
    path = tmp_path / f"a.{ending}"
    save = lambda pixels: Image.fromarray(pixels).save(path, **({"quality": 90} if ending == "jpg" else {}))
    rgb = np.repeat(image[:256, :320, None], 3, 2)
    line, box, pale, most = (rgb.copy() for _ in range(4))
    line[np.arange(50, 160), np.arange(50, 270, 2)] = line[np.arange(50, 160), np.arange(51, 271, 2)] = (255, 0, 0)
    box[100:180, 100:180] = (255, 0, 0)
    pale[100:180, 100:180] = (200, 190, 190)
    most[60:, :160] = (255, 0, 0)
    for drawn in (line, box, pale):
        save(drawn)
        for force in (False, True):
            m, at = read_micrograph(path, bar=0, force=force), (drawn != rgb).any(2)
            assert m.coloured[at].mean() > 0.8 and m.coloured.sum() < 6 * at.sum()
            assert any("grey image with coloured marks" in w for w in m.tags["warnings"]) == (
                m.coloured[:153].mean() > 0.01
            )
    for tinge in ((200, 190, 190), (200, 196, 196)):  # a word in JPEG is thin and pale
        word = Image.fromarray(rgb)
        ImageDraw.Draw(word).text((40, 60), "austenite", fill=tinge, font=ImageFont.load_default(48))
        save(np.asarray(word))
        assert read_micrograph(path, bar=0).coloured.any(), tinge
    save(rgb)
    assert read_micrograph(path, bar=0).coloured is None
    sparse = np.zeros_like(rgb)  # a map of an element, mostly black
    sparse[np.random.default_rng(0).random(sparse.shape[:2]) < 0.1, 1] = 255
    for drawn, words in ((most, "grey image with coloured marks"), (sparse, "is a colour image")):
        save(drawn)
        with pytest.raises(BadInput, match=words):
            read_micrograph(path)


def test_bar_argument(tmp_path, image):
    Image.fromarray(with_bar(image, 40)).save(tmp_path / "a.png")
    assert [read_micrograph(tmp_path / "a.png", bar=b).bar_rows for b in ("auto", 0, 12)] == [40, 0, 12]
    for wrong in (552, -1, "none"):
        with pytest.raises(BadInput):
            read_micrograph(tmp_path / "a.png", bar=wrong)


def test_list_images(tmp_path, image):
    for name in ("b/2.TIF", "b/10.png", "a.jpeg", "notes.txt", "b/._2.TIF"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [p.relative_to(tmp_path).as_posix() for p in list_images(tmp_path)] == ["a.jpeg", "b/10.png", "b/2.TIF"]
    for wrong in (tmp_path / "nowhere", tmp_path / "a.jpeg"):
        with pytest.raises(BadInput):
            list_images(wrong)


def test_atomic(tmp_path):
    with atomic(tmp_path / "sub" / "x.txt") as t:
        t.write_text("1")
    with pytest.raises(RuntimeError):
        with atomic(tmp_path / "sub" / "x.txt") as t:
            t.write_text("2")
            raise RuntimeError
    assert (tmp_path / "sub" / "x.txt").read_text() == "1" and len(list((tmp_path / "sub").iterdir())) == 1


def test_show(image):
    fig = show([image, Micrograph(image, (50.0, 50.0)), image > 128], ["a", "b", "c"])
    assert (
        len(fig.axes) == 3
        and [len(ax.texts) for ax in fig.axes] == [0, 1, 0]
        and fig.axes[1].texts[0].get_text() == "5 µm"
    )


# ---- what vendors write ----


def near(*values):
    return pytest.approx(values if len(values) > 1 else values * 2, rel=2e-3)


def read(path, **options):
    m = read_micrograph(path, **options)
    assert isinstance(m.tags["warnings"], list) and all(
        isinstance(w, str) and "\n" not in w for w in m.tags["warnings"]
    )
    return m


@pytest.fixture(scope="module")
def wide():
    """Noise to cut images of any size from."""
    return np.random.default_rng(3).normal(120, 25, (2200, 2600)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("code", [34682, 34680])
def test_fei(tmp_path, wide, order, code):
    m = read(
        made.tiff(
            tmp_path / "a.tif",
            with_bar(wide[:442, :512], 29),
            [(code, 2, made.fei())],
            order=order,
            resolution=(96, 96),
            unit=2,
        )
    )
    assert m.pixel_size_nm == near(3372.4) and m.bar_rows == 29 and not m.tags["warnings"]
    tags = {
        "vendor": "FEI",
        "model": "Quanta",
        "detector": "ETD",
        "voltage_kv": 5,
        "magnification": 120,
        "date": "13.06.2016 17:06:40",
        "pixel_size_from": "FEI PixelWidth",
    }
    assert {k: m.tags[k] for k in tags} == tags and m.tags["working_distance_mm"] == pytest.approx(4.03466)


def test_fei_variants(tmp_path, wide):
    def one(pixels, text, code=34682, **options):
        return read(made.tiff(tmp_path / "a.tif", pixels, [(code, 2, text)], **options))

    m = one(
        wide[:512, :768], made.fei(768, 512, 39, pixel=None, hfw="0.202732", beam="IRBeam")
    )  # the chamber camera, saved without its bar
    assert m.pixel_size_nm == near(0.202732 / 768 * 1e9) and m.bar_rows == 0 and "IRBeam" in m.tags["warnings"][0]
    m = one(wide[:442, :512], made.fei(pixel=""))  # an empty value is a missing one
    assert m.pixel_size_nm == near(3372.4) and "HFW" in m.tags["pixel_size_from"]
    m = one(wide[:300, :512], made.fei())  # cropped above: keeps its scale
    assert m.pixel_size_nm == near(3372.4) and "cropped" in m.tags["warnings"][0] and m.bar_rows == 0
    for shape in ((221, 256), (236, 256), (942, 1024)):  # reduced, or cropped: who knows
        m = one(wide[: shape[0], : shape[1]], made.fei())
        assert (
            m.pixel_size_nm is None and "pixel_size_from" not in m.tags and "512 pixels wide" in m.tags["warnings"][0]
        )
    m = one(with_bar(wide[:442, :512], 29), made.fei(hfw="0.0034"))
    assert m.pixel_size_nm == near(3372.4) and "HFW" in m.tags["warnings"][0]
    m = one(with_bar(wide[:442, :512], 29), made.fei(pixel_y="6.7448e-006"))
    assert m.pixel_size_nm == near(6744.8, 3372.4) and any("not square" in w for w in m.tags["warnings"])
    for broken in ("nan", "-1e-9", "0", "1e300", "abc", "1e-30"):
        assert one(with_bar(wide[:442, :512], 29), made.fei(pixel=broken, hfw="")).pixel_size_nm is None
    xml = (
        b'<?xml version="1.0"?><Metadata xmlns="http://x"><BinaryResult><PixelSize><X unit="m">4.1e-008</X><Y'
        b' unit="m">4.1e-008</Y></PixelSize></BinaryResult></Metadata>'
    )
    assert one(wide[:442, :512], xml).pixel_size_nm == near(41)
    assert one(wide[:442, :512], xml, 34683).pixel_size_nm == near(41) and one(
        wide[:442, :512], xml.replace(b'"m"', b'"nm"').replace(b"4.1e-008", b"41")
    ).pixel_size_nm == near(41)
    assert one(with_bar(wide[:442, :512], 29), made.fei().rstrip(b"\0") + xml).tags["warnings"]
    bomb = (
        b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b'
        b' "&a;&a;&a;&a;&a;&a;&a;&a;">]><Metadata><PixelSize><X>&b;</X></PixelSize></Metadata>'
    )
    assert one(wide[:442, :512], bomb).pixel_size_nm is None


def test_zeiss(tmp_path, wide):
    def one(shape, text, code=34118, kind=2, encoding="latin-1", **options):
        return read(
            made.tiff(
                tmp_path / "a.tif",
                wide[: shape[0], : shape[1]],
                [(code, kind, text.encode(encoding) + b"\0" * (encoding == "latin-1"))],
                resolution=(1, 1),
                unit=1,
                **options,
            )
        )

    m = one((1536, 2048), made.zeiss())
    assert (
        m.pixel_size_nm == pytest.approx((3.671875,) * 2, rel=1e-6)
        and not m.tags["warnings"]
        and "head" in m.tags["pixel_size_from"]
    )
    tags = {
        "vendor": "Zeiss",
        "detector": "InLens",
        "model": "SUPRA 40",
        "magnification": 50000,
        "voltage_kv": 20,
        "working_distance_mm": 2.8,
        "date": "18 Jul 2019 10:09:27",
    }
    assert {k: m.tags[k] for k in tags} == tags
    m = one(
        (384, 512), made.zeiss("5.825000e-009", 512, 384, None, "5.825 nm", "5.965 µm", mag="105 X")
    )  # V05.04: the pixel size refers to 1024 columns
    assert m.pixel_size_nm == near(11.65) and m.tags["magnification"] == 105 and not m.tags["warnings"]
    for mag, zoom in (
        ("  50.00 K X", 50000),
        ("2.01 K X", 2010),
        ("1,25 K X", 1250),
        ("105 X", 105),
        ("10.00 KX", 10000),
        ("9.8 X", 9.8),
    ):
        assert (
            one((384, 512), made.zeiss("5.825000e-009", 512, 384, None, None, None, mag=mag)).tags["magnification"]
            == zoom
        ), mag
    exact = made.zeiss("5.825000e-009", 512, 384, None, None, None, mag="1.23 K X").replace(
        "5.000000e+004", "1.233877e+003"
    )
    assert one((384, 512), exact).tags["magnification"] == 1233.877  # seven digits at the head, three in the text
    for keep, nm in (
        (dict(image_pixel="12.33 nm"), 12.33),
        (dict(image_pixel=None, pixel=None, field="5.965 µm"), 5965 / 512),
        (dict(image_pixel=None, pixel="6.165 nm", field=None), 12.33),
        (dict(image_pixel="820 pm", pixel=None, field=None), 0.82),
    ):
        assert one((384, 512), made.zeiss("", 512, 384, **(dict(pixel=None, field=None) | keep))).pixel_size_nm == near(
            nm
        )
    m = one((1536, 2048), made.zeiss(image_pixel="12.33 nm"))
    assert m.pixel_size_nm == near(3.672) and any("12.33 nm" in w for w in m.tags["warnings"])
    assert one((1536, 2048), made.zeiss(), 34119, 1, "utf-16-le").pixel_size_nm == near(3.672)
    m = one((768, 1024), made.zeiss())  # stored 2048 wide: this one was reduced or cropped
    assert (
        m.pixel_size_nm is None
        and "2048 pixels wide" in m.tags["warnings"][0]
        and "7.344 nm" in m.tags["warnings"][0]
        and "3.672" in m.tags["warnings"][0]
    )
    m = one((700, 2048), made.zeiss())
    assert m.pixel_size_nm == near(3.672) and "cropped" in m.tags["warnings"][0]
    assert "FIB" in one((1536, 2048), made.zeiss(mode="FIB")).tags["warnings"][0]
    only = "\r\n".join(["AP_WIDTH", "Width = 5.965 µm", "DP_SEM"])
    assert one((384, 512), only).pixel_size_nm == near(5965 / 512)
    path = made.tiff(
        tmp_path / "pages.tif",
        wide[:384, :512],
        [(34118, 2, made.zeiss("5.825e-009", 512, 384, None, None, None).encode("latin-1"))],
        more=[wide[384:768, :512]],
    )
    m = read(path, page=1)
    assert (
        (m.pixels == wide[384:768, :512]).all()
        and m.pixel_size_nm == near(11.65)
        and m.tags["page"] == 1
        and m.tags["pages"] == 2
    )


def test_tescan(tmp_path, wide):
    barred = with_bar(wide[:768, :1024], 120)
    for kind in (1, 6, 7):
        m = read(made.tiff(tmp_path / "a.tif", barred, [(50431, kind, made.tescan())]))
        assert (
            m.pixel_size_nm == near(41)
            and m.bar_rows == 120
            and m.tags["vendor"] == "TESCAN"
            and not m.tags["warnings"]
        )
        assert (
            m.tags["voltage_kv"],
            m.tags["working_distance_mm"],
            m.tags["detector"],
            m.tags["model"],
            m.tags["magnification"],
        ) == (20, 10.1, "SE", "MIRA3 LMH", 5000)
    text = made.tescan()[268:].replace(b"\0", b"").decode("latin-1")
    text = "[MAIN]" + text.partition("[MAIN]")[2]
    for name, side_car in (("b.tif", "b.hdr"), ("c.tif", "c-tif.hdr"), ("d.png", "d.hdr"), ("e.png", "e-png.hdr")):
        Image.fromarray(barred).save(tmp_path / name)
        (tmp_path / side_car).write_text(text, encoding="utf-8")
        assert read(tmp_path / name).pixel_size_nm == near(41), side_car
    m = read(
        made.tiff(tmp_path / "a.tif", barred, [(50431, 1, b"\1\2\3" + text.encode())])
    )  # blocks that make no sense: its lines do
    assert m.pixel_size_nm == near(41)
    m = read(
        made.tiff(tmp_path / "a.tif", wide[:888, :1024], [(50431, 1, made.tescan())])
    )  # a stated bar that is not there
    assert m.bar_rows == 120 and "none can be seen" in m.tags["warnings"][0]
    (tmp_path / "a.hdr").write_text(text.replace("4.1e-008", "9e-008"))
    m = read(
        made.tiff(tmp_path / "a.tif", barred, [(50431, 1, made.tescan())])
    )  # the tag before the text, and the difference told
    assert m.pixel_size_nm == near(41) and "90 nm" in m.tags["warnings"][0]


def test_phenom(tmp_path, wide):
    barred = with_bar(wide[:1024, :1024], 64)
    m = read(made.tiff(tmp_path / "a.tif", barred, [(34683, 2, made.phenom() + b"\0")]))
    assert m.pixel_size_nm == near(694.952) and m.bar_rows == 64 and not m.tags["warnings"]
    assert (
        m.tags["vendor"],
        m.tags["model"],
        m.tags["detector"],
        m.tags["voltage_kv"],
        m.tags["working_distance_mm"],
    ) == ("Phenom", "ProX G5", "BSD", 15, 6.1)
    Image.fromarray(barred).save(tmp_path / "a.jpg", comment=made.phenom("694.952", "nm"), quality=95)
    m = read(tmp_path / "a.jpg")
    assert m.pixel_size_nm == near(694.952) and m.bar_rows == 64
    Image.fromarray(barred).save(tmp_path / "b.jpg", quality=95)
    with open(tmp_path / "b.jpg", "ab") as f:  # behind the image's end
        f.write(made.phenom())
    assert read(tmp_path / "b.jpg").pixel_size_nm == near(694.952)
    m = read(made.tiff(tmp_path / "half.tif", wide[:544, :512], [(34683, 2, made.phenom())]))
    assert m.pixel_size_nm is None and "1024 pixels wide" in m.tags["warnings"][0]


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-be-bom", "utf-16-le", "cp1252", "iso-8859-2"]


def encoded(text, encoding, end="\r\n"):
    text = text.replace("\n", end)
    return b"\xfe\xff" + text.encode("utf-16-be") if encoding == "utf-16-be-bom" else text.encode(encoding, "replace")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_hitachi_encodings(tmp_path, wide, encoding):
    barred = with_bar(wide[:960, :1280], 140)
    for name, end in (("a.tif", "\r\n"), ("b.bmp", "\n"), ("c.jpg", "\r\n")):
        Image.fromarray(barred).save(tmp_path / name)
        (tmp_path / name).with_suffix(".txt").write_bytes(encoded(made.hitachi(), encoding, end))
        m = read(tmp_path / name)
        assert m.pixel_size_nm == (506.25, 506.25) and not m.tags["warnings"] and abs(m.bar_rows - 140) <= 2
        tags = {
            "vendor": "Hitachi",
            "model": "TM3000",
            "magnification": 250,
            "voltage_kv": 15,
            "working_distance_mm": 6.9,
            "detector": "BSE COMPO",
            "date": "16/08/2016 18:56:58",
            "pixel_size_from": "Hitachi side-car PixelSize",
        }
        assert {k: m.tags[k] for k in tags} == tags


def test_hitachi_rules(tmp_path, wide):
    def one(text, shape=(960, 1280), name="a.png", side_car="a.txt"):
        Image.fromarray(wide[: shape[0], : shape[1]]).save(tmp_path / name)
        (tmp_path / side_car).write_text(text)
        m = read(tmp_path / name)
        (tmp_path / side_car).unlink()
        return m

    plain = dict(size="1280x960")
    assert one(made.hitachi(first="", **plain)).pixel_size_nm == (506.25,) * 2  # the first line may be missing
    assert one(made.hitachi(first="[TemImageFile]\n", **plain)).pixel_size_nm == (506.25,) * 2
    m = one(made.hitachi("S-4700", None, "1280x960", "15000"))  # no PixelSize: the 127 mm rule
    assert m.pixel_size_nm == near(6.615) and "127 mm" in m.tags["pixel_size_from"]
    m = one(made.hitachi("SU8000", "2480.469", "1280x960", "40"))
    assert m.pixel_size_nm == near(2480.469) and not m.tags["warnings"]
    m = one(made.hitachi("SU8000", "1240.2", "1280x960", "40"))  # the check fails
    assert m.pixel_size_nm == near(1240.2) and "127 mm" in m.tags["warnings"][0]
    m = one(made.hitachi("SU5000", "", "1280x960", "1000"))  # not known to obey it: a hint, no scale
    assert m.pixel_size_nm is None and "99.2" in m.tags["warnings"][0]
    assert one(made.hitachi("TM3000", "", "1280x960", "250")).pixel_size_nm is None
    assert one(made.hitachi("TM3000", "", "1280x960", "250", DPI="200.69")).pixel_size_nm == near(506.25)
    m = one(made.hitachi(size="2560x1920"))  # stale or reduced
    assert m.pixel_size_nm is None and "2560 pixels wide" in m.tags["warnings"][0]
    assert one(made.hitachi(size="1280x1100")).pixel_size_nm == (506.25,) * 2  # its bar was cut off
    for stale in ("A1.TIF", "a1.tif", "A1.tif"):  # no text of that stem: the one that names the image
        m = one(made.hitachi(name=stale, **plain), name="A1.tif", side_car=f"other{stale[-3:]}.txt")
        assert m.pixel_size_nm == (506.25,) * 2
    assert one("specimen 4\netched 10 s\nPixelSize=5\n").pixel_size_nm is None  # any text is no side-car
    assert one(made.hitachi(name="another.tif", **plain)).pixel_size_nm == (506.25,) * 2  # renamed: the stem counts
    assert one(made.hitachi(pixel="-3", size="x", magnification="many", **{"Key": "a=b=c"})).pixel_size_nm is None


@pytest.mark.parametrize("encoding", ENCODINGS + ["cp932"])
def test_jeol(tmp_path, wide, encoding):
    image = with_bar(wide[:1920, :2560], 128)
    Image.fromarray(image).save(tmp_path / "a.tif")
    (tmp_path / "a.txt").write_bytes(
        encoded(made.jeol(marker="10um" if encoding in ("iso-8859-2", "cp932") else "10µm"), encoding)
    )
    m = read(tmp_path / "a.tif")
    assert m.pixel_size_nm == near(120e6 / (430 * 2560)) and m.bar_rows == 128 and not m.tags["warnings"]
    tags = {
        "vendor": "JEOL",
        "model": "8530F",
        "magnification": 430,
        "voltage_kv": 15,
        "working_distance_mm": 10.74,
        "detector": "COMPO",
        "date": "2019/09/30 09:59:24",
    }
    assert {k: m.tags[k] for k in tags} == tags


def test_jeol_rules(tmp_path, wide):
    def one(text, w, h, rows=0, dpi=None):
        Image.fromarray(with_bar(wide[:h, :w], rows) if rows else wide[:h, :w]).save(
            tmp_path / "a.tif", **({"dpi": (dpi, dpi)} if dpi else {})
        )
        (tmp_path / "a.txt").write_text(text, encoding="utf-8")
        return read(tmp_path / "a.tif")

    at = lambda width, zoom=430: near(120e6 / (zoom * width))
    for w in (800, 640):  # saved smaller, recorded at 1280
        text = made.jeol("1280 960", "100um", "458")
        m = one(text, w, w * 3 // 4, w // 20)
        assert m.pixel_size_nm == at(w) and m.bar_rows == w // 20 and not m.tags["warnings"]
        assert one(text, w, w * 3 // 4, 0, dpi=w * 25.4 / 120).pixel_size_nm == at(w)  # no bar: its print density tells
        m = one(text, w, w * 3 // 4)  # nothing tells: may be a crop
        assert m.pixel_size_nm is None and "1280 pixels wide" in m.tags["warnings"][0]
        assert one(text, w, w * 3 // 4, w // 20, dpi=300).pixel_size_nm is None  # something contradicts
    for below in (104, 132, 160):  # bars of other heights: no crop
        m = one(made.jeol(), 2560, 1920 + below)
        assert (
            m.bar_rows == below and m.pixel_size_nm == at(2560) and not any("cropped" in w for w in m.tags["warnings"])
        )
    for below in (0, 128, 140):  # recorded at 1280, saved at 2560: wider than it was recorded is no crop either
        m = one(made.jeol("1280 960", "100um", "458"), 2560, 1920 + below)
        assert (
            m.pixel_size_nm == at(2560) and m.bar_rows == below and not any("cropped" in w for w in m.tags["warnings"])
        )
    m = one(made.jeol("1280 960", "100um", "458"), 2560, 1500)
    assert (
        m.pixel_size_nm is None
        and "1280 pixels wide" in m.tags["warnings"][0]
        and "cropped" not in m.tags["warnings"][0]
    )
    m = one(made.jeol(), 2560, 1800)
    assert "cropped" in m.tags["warnings"][0]
    m = one(made.jeol(marker="10um", bar="80"), 2560, 1920, 128)  # the 120 mm rule does not hold here
    assert m.pixel_size_nm == near(125) and "1.2%" in m.tags["warnings"][0]
    assert one(made.jeol(marker="5 deg."), 2560, 1920, 128).pixel_size_nm is None  # an angle is no length
    assert one(made.jeol(bar=""), 2560, 1920, 128).pixel_size_nm is None
    none = {"$CM_FULL_SIZE": None, "$$SM_MICRON_MARKER": None, "$$SM_MICRON_BAR": None}
    new = none | {"$CM_IMAGE_SIZE": "1280 960", "$SM_PNU_HEIGHT": "64"}
    m = one(made.jeol(**new, **{"$CM_PIXEL_SIZE": "93.75nm", "$CM_FIELD_OF_VIEW": "120.0µm 90.0µm"}), 1280, 960, 64)
    assert m.pixel_size_nm == near(93.75) and m.bar_rows == 64 and not m.tags["warnings"]
    assert one(made.jeol(**new, **{"$CM_FIELD_OF_VIEW": "120.0 µm 90.0 µm"}), 1280, 960).pixel_size_nm == near(93.75)
    m = one(
        made.jeol(**new, **{"$SM_STANDARD_FIELD_SIZE": "128", "$SM_DETECTOR": "BED-C", "$CM_SIGNAL": None}),
        1280,
        960,
        64,
    )
    assert m.pixel_size_nm == near(128e6 / 430 / 1280) and m.tags["detector"] == "BED-C"
    m = one(made.jeol(**new, **{"$CM_PIXEL_SIZE": "93.75nm", "$CM_FIELD_OF_VIEW": "240.0µm 180.0µm"}), 1280, 960, 64)
    assert m.pixel_size_nm == near(93.75) and "187.5 nm" in m.tags["warnings"][0]
    m = one(made.jeol(**new, **{"$CM_PIXEL_SIZE": "93.75nm"}), 640, 512, 32)
    assert m.pixel_size_nm is None
    assert one(made.jeol(**none, **{"$$EM_PIXELSPERMETER_X": "5e9"}), 1280, 960).pixel_size_nm == near(0.2)


@pytest.mark.parametrize("order", "<>")
def test_imagej(tmp_path, image, order):
    def one(text, resolution=(5.928571, 5.928571), **options):
        return read(
            made.tiff(
                tmp_path / "a.tif",
                image,
                [(270, 2, text.encode("latin-1") + b"\0")],
                order=order,
                resolution=resolution,
                unit=1,
                **options,
            )
        )

    m = one("ImageJ=1.51a\nunit=micron\nspacing=0.5\nmin=0.0\n")
    assert (
        m.pixel_size_nm == near(168.67)
        and m.tags["pixel_size_from"] == "ImageJ unit micron"
        and m.tags["vendor"] == "ImageJ"
    )
    assert one("ImageJ=1.51a\nunit=\\u00B5m\n").pixel_size_nm == near(168.67)
    assert one("ImageJ=1.51a\nunit=nm\n", (0.5, 0.25)).pixel_size_nm == near(4, 2)
    for unit in ("", "unit=pixel\n", "unit=\n", "spacing=3\n"):
        m = one("ImageJ=1.51a\n" + unit)
        assert m.pixel_size_nm is None and not m.tags["warnings"], unit
    for unit, density in (
        ("inch", 5.93),
        ("cm", 5.93),
        ("inch", 72),
        ("inch", 300),
        ("inch", 1200),
        ("cm", 118.11),
        ("mm", 11.811),
        ("mm", 2.8346),
        ("m", 11811),
    ):  # for a printer: no scale, and told
        m = one(f"ImageJ=1.51a\nunit={unit}\n", (density, density))
        assert m.pixel_size_nm is None and "print density" in m.tags["warnings"][0], unit
    for unit, density, nm in (
        ("inch", 254000, 100),
        ("cm", 2e5, 50),
        ("mm", 20, 5e4),
        ("m", 2e4, 5e4),
        ("\\u00B5m", 20, 50),
        ("microns", 20, 50),
        ("\\u00C5", 0.1, 1),
        ("Angstroms", 0.1, 1),
    ):
        m = one(f"ImageJ=1.51a\nunit={unit}\n", (density, density))
        assert m.pixel_size_nm == near(nm) and not m.tags["warnings"], unit
    m = one("ImageJ=1.51a\nunit=nm\nyunit=um\n", (0.2, 200))  # y has a unit of its own
    assert m.pixel_size_nm == near(5, 5) and not m.tags["warnings"]
    assert one("ImageJ=1.51a\nunit=nm\nyunit=pixel\n", (0.2, 1)).pixel_size_nm is None
    m = one("ImageJ=1.51a\nunit=furlong\n")
    assert m.pixel_size_nm is None and "'furlong', a unit that is not understood" in m.tags["warnings"][0]
    assert one("ImageJ=1.51a\nunit=nm\n", (0, 0)).pixel_size_nm is None
    m = read(
        made.tiff(
            tmp_path / "s.tif",
            (image.astype(np.int32) * 100 - 9000 + 32768).astype(np.uint16),
            [(270, 2, b"ImageJ=1.51a\nc0=-32768.0\nc1=1.0\nvunit=gray value\n\0")],
            order=order,
        )
    )
    assert (
        m.pixels.dtype == np.int16 and (m.pixels == image.astype(np.int32) * 100 - 9000).all()
    )  # signed numbers that are stored shifted


def test_ome(tmp_path, image):
    def one(
        attributes,
        xml='<?xml version="1.0" encoding="UTF-8"?><!-- a comment --><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels SizeX="512" SizeY="512" {}><TiffData IFD="0"/></Pixels></Image></OME>',
        **options,
    ):
        return read(
            made.tiff(
                tmp_path / "a.tif",
                image,
                [(270, 2, xml.format(attributes).encode() + b"\0")],
                resolution=(72, 72),
                unit=2,
                **options,
            )
        )

    for attributes, nm in (
        ('PhysicalSizeX="0.05" PhysicalSizeY="0.05"', 50),
        ('PhysicalSizeX="0.05"', 50),
        ('PhysicalSizeX="50" PhysicalSizeXUnit="nm"', 50),
        ('PhysicalSizeX="0.05" PhysicalSizeXUnit="µm" PhysicalSizeY="0.04"', (40, 50)),
        ('PhysicalSizeX="5e-8" PhysicalSizeXUnit="m"', 50),
        ('PhysicalSizeX="0,05"', 50),
        ('PhysicalSizeX="500" PhysicalSizeXUnit="Å"', 50),
    ):
        m = one(attributes)
        assert m.pixel_size_nm == near(*np.ravel(nm)) and m.tags["pixel_size_from"] == "OME PhysicalSizeX", attributes
    for attributes, told in (
        ('PhysicalSizeX="1" PhysicalSizeXUnit="pixel"', ""),
        ("", ""),
        ('PhysicalSizeX="3" PhysicalSizeXUnit="parsec"', "'parsec'"),
        ('PhysicalSizeX="many"', ""),
    ):
        m = one(attributes)
        assert (
            m.pixel_size_nm is None and bool(m.tags["warnings"]) == bool(told) and told in "".join(m.tags["warnings"])
        ), attributes
    sizes = 'PhysicalSizeX="3" PhysicalSizeXUnit="{}" PhysicalSizeY="3" PhysicalSizeYUnit="parsec"'
    for unit in ("parsec", "nm"):  # of both axes or of one: told once, and no pixel size of the other axis alone
        m = one(sizes.format(unit))
        assert m.pixel_size_nm is None and len(m.tags["warnings"]) == 1
    assert "damaged" in one("", "<OME><broken").tags["warnings"][0] and one("", "<OME/>").pixel_size_nm is None
    tifffile.imwrite(
        tmp_path / "b.ome.tif",
        np.stack([image, image]),
        photometric="minisblack",
        metadata={
            "axes": "ZYX",
            "PhysicalSizeX": 0.25,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": 0.25,
            "PhysicalSizeYUnit": "µm",
        },
    )
    assert [read(tmp_path / "b.ome.tif", page=k).pixel_size_nm for k in (0, 1)] == [near(250)] * 2


def test_a_field_width_and_decimal_commas(tmp_path, wide):
    barred = with_bar(wide[:442, :512], 29)
    old = (
        made.fei(pixel=None, hfw="")
        .replace(b"[Scan]", b"[X]")
        .replace(b"[EBeam]\r\n", b"[EBeam]\r\nHorFieldsize=0.00172667\r\nVerFieldsize=0.00149061\r\n")
    )
    for text, entry in ((old, "HorFieldsize"), (made.fei(pixel="3,3724e-006", hfw="0,00172667"), "PixelWidth")):
        m = read(made.tiff(tmp_path / "a.tif", barred, [(34682, 2, text)]))
        assert (
            m.pixel_size_nm == near(3372.4)
            and entry in m.tags["pixel_size_from"]
            and m.bar_rows == 29
            and not m.tags["warnings"]
        ), entry
    text = made.zeiss("5,825000e-009", 512, 384, None, "5,825 nm", "5,965 µm")
    assert read(
        made.tiff(tmp_path / "b.tif", wide[:384, :512], [(34118, 2, text.encode("latin-1"))])
    ).pixel_size_nm == near(11.65)
    Image.fromarray(with_bar(wide[:960, :1280], 64)).save(tmp_path / "c.tif")
    (tmp_path / "c.txt").write_text(
        "$CM_MAG 1000\n$CM_IMAGE_SIZE 1280 960\n$SM_PNU_HEIGHT 64\n$CM_FIELD_OF_VIEW 120,0µm 90,0µm\n", encoding="utf-8"
    )
    assert read(tmp_path / "c.tif").pixel_size_nm == near(93.75)
    Image.fromarray(wide[:100, :120]).save(tmp_path / "d.png")
    (tmp_path / "d.hdr").write_text("[MAIN]\nPixelSizeX=4,1e-008\nPixelSizeY=4,1e-008\n")
    assert read(tmp_path / "d.png").pixel_size_nm == near(41)


def test_what_somebody_states_is_believed_first(tmp_path, wide):
    """NAME.scale.json, NAME.tif.scale.json, scale.json: before the file's own record, and a difference is told."""
    barred = with_bar(wide[:442, :512], 29)
    path = made.tiff(tmp_path / "a.tif", barred, [(34682, 2, made.fei())])
    written = write_scale(path, 3000, by="the ruler")
    m = read(path)
    assert (
        written.name == "a.scale.json"
        and m.pixel_size_nm == (3000, 3000)
        and m.bar_rows == 29
        and m.tags["vendor"] == "FEI"
        and m.tags["pixel_size_from"] == "a.scale.json, as the ruler says"
    )
    assert "3372 nm" in m.tags["warnings"][0]
    Image.fromarray(barred).save(tmp_path / "a.png")
    assert (
        write_scale(tmp_path / "a.png", (20, 10), 31).name == "a.png.scale.json"
        and read(tmp_path / "a.png").pixel_size_nm == (20, 10)
        and read(tmp_path / "a.png").bar_rows == 31
    )
    Image.fromarray(barred).save(tmp_path / "b.png")
    assert (
        write_scale(tmp_path, 7.5).name == "scale.json"
        and read(tmp_path / "b.png").pixel_size_nm == (7.5, 7.5)
        and read(path).pixel_size_nm == (3000, 3000)
    )
    assert [p.name for p in list_images(tmp_path)] == ["a.png", "a.tif", "b.png"]
    for text, word in (
        ("{", "JSON"),
        ('{"pixel_size_nm": "5 nm"}', "pixel_size_nm"),
        ('{"pixel_size_nm": 0}', "pixel_size_nm"),
        ("{}", "neither"),
        ('{"bar_rows": -1}', "bar_rows"),
        ("[]", "object"),
    ):
        (tmp_path / "b.scale.json").write_text(text)
        with pytest.raises(BadInput, match=word) as caught:
            read(tmp_path / "b.png")
        assert "b.scale.json" in str(caught.value) and "\n" not in str(caught.value)
    (tmp_path / "b.scale.json").write_text('{"bar_rows": 5000}')
    assert "b.scale.json states 5000 rows" in read(tmp_path / "b.png").tags["warnings"][0]
    assert "all of it" in read(tmp_path / "b.png").tags["warnings"][0] and read(tmp_path / "b.png").pixel_size_nm == (
        7.5,
        7.5,
    )
    for wrong in (dict(), dict(pixel_size_nm=-1), dict(bar_rows=1.5)):
        with pytest.raises(BadInput):
            write_scale(path, **wrong)
    with pytest.raises(BadInput, match="no such file"):
        write_scale(tmp_path / "none.tif", 5)


def test_gatan(tmp_path, image):
    for order in "<>":
        for micro in ("µm".encode("latin-1"), "µm".encode(), b"um"):
            tags = [
                (65003, 2, micro + b"\0" * (5 - len(micro))),
                (65004, 2, micro + b"\0" * (5 - len(micro))),
                (65009, 12, struct.pack(order + "d", 0.0125)),
                (65010, 12, struct.pack(order + "d", 0.025)),
                (65027, 7, b"header"),
            ]
            m = read(made.tiff(tmp_path / "a.tif", image, tags, order=order, resolution=(72, 72), unit=2))
            assert (
                m.pixel_size_nm == near(25, 12.5)
                and m.tags["vendor"] == "Gatan"
                and "not square" in m.tags["warnings"][0]
            )


def test_the_most_trusted_record_wins_and_disagreement_is_told(tmp_path, wide):
    barred, text = with_bar(wide[:442, :512], 29), made.hitachi("SU8000", "500", "512x471", None)
    (tmp_path / "a.txt").write_text(text)
    imagej = (270, 2, b"ImageJ=1.51a\nunit=nm\n\0")
    path = made.tiff(tmp_path / "a.tif", barred, [(34682, 2, made.fei()), imagej], resolution=(0.01, 0.01), unit=1)
    m = read(path)
    assert (
        m.pixel_size_nm == near(3372.4)
        and m.tags["vendor"] == "FEI"
        and m.tags["model"] == "Quanta"
        and len(m.tags["warnings"]) == 2
    )
    assert "500 nm" in m.tags["warnings"][0] and "100 nm" in m.tags["warnings"][1]
    m = read(made.tiff(path, barred, [imagej], resolution=(0.01, 0.01), unit=1))
    assert m.pixel_size_nm == (500, 500) and m.tags["vendor"] == "Hitachi"
    (tmp_path / "a.txt").unlink()
    assert read(path).pixel_size_nm == near(100)


RECORDS = [
    (34682, made.fei()),
    (34680, made.fei()),
    (34118, made.zeiss().encode("latin-1")),
    (34119, made.zeiss().encode("utf-16-le")),
    (50431, made.tescan()),
    (34683, made.phenom()),
    (270, b"ImageJ=1.5\nunit=nm\n\0"),
    (65009, struct.pack("<d", 3)),
    (65003, b"nm\0\0\0"),
    (301, bytes(512)),
    (34412, bytes(600)),
    (33628, bytes(64)),
    (34361, bytes(600)),
    (33629, bytes(64)),
    (37706, bytes(64)),
    (51123, b"{}xxxxxx"),
    (700, b"<x:xmpmeta"),
    (34665, b"\0" * 8),
]


@pytest.mark.parametrize("code", [code for code, _ in RECORDS])
def test_a_broken_record_never_makes_an_image_unreadable(tmp_path, wide, code):
    pixels, whole = wide[:120, :128], dict(RECORDS)[code]
    chance = random.Random(code)
    forms = [
        b"",
        b"\0",
        b"\xff" * 70,
        whole[: len(whole) // 2],
        whole[::-1],
        whole.replace(b"=", b" "),
        whole.replace(b"\n", b"\0"),
        whole * 40,
        bytes(chance.randrange(256) for _ in range(500)),
        whole.replace(b"0", b"9" * 400),
        b"[" + whole,
        whole.replace(b"e-0", b"e+9"),
    ]
    for kind in (1, 2, 7):
        for form in forms:
            for pages in ((), (wide[120:240, :128],)):
                m = read(made.tiff(tmp_path / "a.tif", pixels, [(code, kind, form)], more=pages))
                assert (m.pixels == pixels).all()
    data = bytearray(made.tiff(tmp_path / "a.tif", pixels, [(code, 2, whole * 2)]).read_bytes())
    entry = data.find(struct.pack("<HH", code, 2), 128 * 120)
    for count, offset in (
        (2**31, 8),
        (2**32 - 1, 2**32 - 1),
        (100, len(data) - 3),
        (0, 0),
    ):  # a count or place that cannot be
        struct.pack_into("<II", data, entry + 4, count, offset)
        (tmp_path / "b.tif").write_bytes(bytes(data))
        assert (read(tmp_path / "b.tif").pixels == pixels).all()


def test_broken_side_cars(tmp_path, image):
    Image.fromarray(image).save(tmp_path / "a.png")
    for data in (
        b"",
        b"\0" * 99,
        b"\xff\xfe",
        b"\xff\xfe\0",
        b"[SemImageFile]\xff\xfe=\0",
        b"[SemImageFile]",
        b"[SemImageFile]\nPixelSize=\nDataSize=axb\nMagnification=0\nInstructName=S-4700",
        b"$CM_MAG",
        b"$CM_FULL_SIZE 0 0\n$CM_MAG 0\n$SM_MICRON_BAR 0\n$SM_MICRON_MARKER 0um",
        b"$CM_FULL_SIZE 99999999999999999999 1\n$CM_PIXEL_SIZE 5nm",
        b"[SemImageFile]\n" + b"x" * 2**21,
        b"PixelSizeX=1e999\n",
        bytes(range(256)) * 3,
        b"[SemImageFile]\nDataSize=" + b"9" * 5000 + b"x1\nPixelSize=5",
    ):
        for ending in ("txt", "hdr"):
            (tmp_path / f"a.{ending}").write_bytes(data)
            assert (read(tmp_path / "a.png").pixels == image).all(), data[:60]
    (tmp_path / "a.hdr").unlink()
    (tmp_path / "a.txt").unlink()
    (tmp_path / "a.txt").mkdir()
    assert read(tmp_path / "a.png").pixel_size_nm is None


def test_print_density_on_request(tmp_path, image):
    cases = []
    for ending in ("tif", "png", "jpg", "bmp"):
        Image.fromarray(image).save(tmp_path / f"a.{ending}", dpi=(300, 300))
        cases.append((tmp_path / f"a.{ending}", 25.4e6 / 300))
    cases.append((made.tiff(tmp_path / "cm.tif", image, resolution=(2e5, 1e5), unit=3), (100, 50)))
    for path, nm in cases:
        assert read(path).pixel_size_nm is None, path
        m = read(path, print_density=True)
        assert m.pixel_size_nm == near(*np.ravel(nm)) and "print density" in m.tags["pixel_size_from"], path
    m = read(made.tiff(tmp_path / "none.tif", image, resolution=(1, 1), unit=1), print_density=True)
    assert m.pixel_size_nm is None and "no print density" in m.tags["warnings"][0]
    m = read(made.tiff(tmp_path / "screen.tif", image, resolution=(72, 72), unit=2), print_density=True)
    assert m.pixel_size_nm == near(352777.8) and "72 dpi" in m.tags["warnings"][0]
    m = read(
        made.tiff(
            tmp_path / "fei.tif", with_bar(image[:442], 29), [(34682, 2, made.fei())], resolution=(96, 96), unit=2
        ),
        print_density=True,
    )
    assert m.pixel_size_nm == near(3372.4)  # a record is a record


def test_pages(tmp_path, image):
    stack = np.stack([image, 255 - image, image // 2])
    for name, write in (
        ("plain.tif", lambda p: tifffile.imwrite(p, stack, photometric="minisblack")),
        ("ij.tif", lambda p: tifffile.imwrite(p, stack, imagej=True)),
        (
            "deep.tif",
            lambda p: tifffile.imwrite(
                p, stack.astype(np.uint16) * 256, imagej=True, metadata={"unit": "um"}, resolution=(2, 2)
            ),
        ),
        ("packed.tif", lambda p: made.tiff(p, image, compression=8, encode=zlib.compress, more=stack[1:])),
    ):
        write(tmp_path / name)
        for k in range(3):
            m = read(tmp_path / name, page=k)
            assert (
                (m.pixels == (stack[k].astype(np.uint16) * 256 if name == "deep.tif" else stack[k])).all()
                and m.tags["pages"] == 3
                and m.tags["page"] == k
            ), (name, k)
            assert bool(m.tags["warnings"]) == (k == 0)  # said where nobody chose
        for wrong in (3, -1, "x", 1.0, True):
            with pytest.raises(BadInput, match="page"):
                read(tmp_path / name, page=wrong)
    assert read(tmp_path / "deep.tif", page=2).pixel_size_nm == near(500)
    Image.fromarray(image).save(tmp_path / "a.png")
    with pytest.raises(BadInput, match="it has 1"):
        read(tmp_path / "a.png", page=1)


@pytest.mark.parametrize("order", "<>")
def test_of_a_pair_the_measured_page_is_taken(tmp_path, image, order):
    """Olympus and JEOL: an 8-bit preview with a bar burnt in comes first, the 16-bit page behind it, each with a
    pixel size of its own."""
    deep = image.astype(np.uint16) * 17 + 1000
    preview = np.dstack([with_bar(image, 40)] * 3)
    for first, second, best in (
        (preview[:256, :256], deep, 1),
        (deep, preview, 0),
        (image[:300], image, 1),
        (image.astype(np.float32), deep, 0),
    ):
        sizes = (84.0, 42.0)
        path = made.tiff(
            tmp_path / "a.tif",
            first,
            [(33560, 7, made.sis(1.0))],
            order=order,
            photometric=2 if first.ndim == 3 else 1,
            more=[second if second.ndim == 2 else second[..., 0]],
        )
        if order == "<":
            made.place_sis(path, *sizes)
        m = read(path)
        assert (
            (m.pixels == (first if best == 0 else second)).all()
            and m.tags["page"] == best
            and f"page {best} (" in m.tags["warnings"][0]
            and f"not taken: page {1 - best}" in m.tags["warnings"][0]
        )
        with tifffile.TiffFile(path) as other:
            assert (other.pages[best].asarray().squeeze() == m.pixels).all()
        if order == "<":
            assert (
                m.pixel_size_nm == near(sizes[best])
                and m.tags["vendor"] == "Olympus SIS"
                and m.tags["model"] == "Veleta"
            )
            assert read(path, page=1 - best, bar=0).pixel_size_nm == near(sizes[1 - best])
    stack = made.tiff(tmp_path / "s.tif", image, more=[255 - image, image[:99, :99]])
    assert (
        read(stack).tags["page"] == 0
        and stack_pages(stack) == [0, 1]
        and stack_pages(embedded() / "spot1_0d_0.png") == [0]
    )
    with pytest.raises(BadInput, match="page is 'all'"):
        read(stack, page="all")


TURNED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: np.rot90,
}


@pytest.mark.parametrize("code", TURNED)
def test_turned_files_stand_upright(tmp_path, image, code):
    """Orientation of TIFF, JPEG and PNG, as Pillow turns them; the pixel size turns with the image; a bar that was
    stored sideways is below."""
    barred = with_bar(image[:300], 44)
    right = TURNED[code](barred)  # what is to be seen of the stored image
    stored = made.tiff(
        tmp_path / "a.tif",
        barred,
        [(274, 3, struct.pack("<H", code)), (270, 2, b"ImageJ=1.5\nunit=nm\n\0")],
        resolution=(0.5, 0.25),
        unit=1,
    )
    m = read(stored, bar=0)
    assert (m.pixels == right).all() and m.tags.get("orientation", 1) == code
    Image.fromarray(barred).save(tmp_path / "packed.tif", compression="tiff_lzw", tiffinfo={274: code})
    with Image.open(tmp_path / "packed.tif") as other:  # (of unpacked files Pillow 13 turns another size)
        other.load()
        assert (np.asarray(other) == right).all() and (read(tmp_path / "packed.tif", bar=0).pixels == right).all()
    assert m.pixel_size_nm == near(*((2, 4) if code > 4 else (4, 2)))
    back = {6: 8, 8: 6}.get(code, code)
    upright = read(
        made.tiff(tmp_path / "b.tif", np.ascontiguousarray(TURNED[back](barred)), [(274, 3, struct.pack("<H", code))])
    )
    assert (upright.pixels == barred).all() and upright.bar_rows == 44
    exif = Image.Exif()
    exif[274] = code
    for name, options in (("c.jpg", dict(quality=95)), ("d.png", {})):
        Image.fromarray(barred).save(tmp_path / name, exif=exif, **options)
        plain = Image.open(tmp_path / name)
        assert (read(tmp_path / name, bar=0).pixels == TURNED[code](np.asarray(plain))).all(), name
        assert (read(tmp_path / name, bar=0, orient=False).pixels == np.asarray(plain)).all()
    Image.fromarray(image[:300] > 120).save(
        tmp_path / "g.tif", compression="group4", tiffinfo={274: code}
    )  # decoded by Pillow, which turns it too
    assert (read(tmp_path / "g.tif", force=True, bar=0).pixels == TURNED[code](image[:300] > 120) * np.uint8(255)).all()


@pytest.mark.parametrize("code", TURNED)
def test_no_turn_hides_a_bar(tmp_path, image, code):
    """A bar that is below as the image is stored, with a record or without one, is cut there and no turn believed;
    the rows that were found read the same image a second time, and no bar at all is a turn as stated."""
    specimen, turn = image[:442], (274, 3, struct.pack("<H", code))
    barred = with_bar(specimen, 29)
    expected = np.fliplr(specimen) if code == 2 else specimen
    for record in ([], [(34682, 2, made.fei())]):
        stored = made.tiff(tmp_path / "a.tif", barred, [*record, turn])
        m, again = read(stored), read(stored, bar=29)
        assert m.bar_rows == 29 and (m.image == expected).all() and (again.image == expected).all()
        assert m.pixel_size_nm == (near(3372.4, 3372.4) if record else None)
        said = [w for w in m.tags["warnings"] if "29 rows" in w and "not turned" in w]
        assert len(said) == (code > 2) and ("orientation" in m.tags) == (code == 2)
        assert (read(stored, bar=0).pixels == TURNED[code](barred)).all()
    plain = read(made.tiff(tmp_path / "b.tif", specimen, [turn]))
    assert plain.bar_rows == 0 and (plain.pixels == TURNED[code](specimen)).all()


# ---- pixels come out exactly, or not at all ----


def values(dtype, samples, rng):
    one = rng.integers(0, 200, (70, 90)) if np.dtype(dtype).itemsize == 1 else rng.integers(0, 30000, (70, 90))
    if np.dtype(dtype).kind == "i":
        one = one - 90
    one = one.astype(dtype) if np.dtype(dtype).kind != "f" else (one / 7).astype(dtype)
    return one if samples == 1 else np.repeat(one[..., None], samples, 2)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    "compression, encode",
    [
        (1, bytes),
        (5, made.lzw),
        (8, zlib.compress),
        (32946, zlib.compress),
        (32773, made.packbits),
        (34925, lzma.compress),
    ],
)
def test_every_depth_comes_out_exactly(tmp_path, order, compression, encode):
    rng = np.random.default_rng(0)
    for dtype in ("u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8"):
        for samples in (1, 3):
            want = values(dtype, samples, rng)
            grey = want if samples == 1 else want[..., 0]
            for options in (dict(rows=16), dict(tile=(32, 48)), dict(rows=16, planar=2)):
                path = made.tiff(
                    tmp_path / "a.tif",
                    want,
                    order=order,
                    compression=compression,
                    encode=encode,
                    photometric=1 if samples == 1 else 2,
                    **options,
                )
                m = read_micrograph(path, bar=0)
                assert m.pixels.dtype == np.dtype(dtype) and (m.pixels == grey).all(), (dtype, samples, options)
                assert m.tags["bits"] == 8 * grey.dtype.itemsize
            if np.dtype(dtype).kind != "f" and order == "<":  # horizontal differences
                before = np.concatenate([want[:, :1], np.diff(want, axis=1)], 1)
                assert (
                    read_micrograph(
                        made.tiff(
                            tmp_path / "p.tif",
                            before,
                            compression=compression,
                            encode=encode,
                            predictor=2,
                            rows=9,
                            photometric=1 if samples == 1 else 2,
                        ),
                        bar=0,
                    ).pixels
                    == grey
                ).all()


def test_other_writers_agree(tmp_path):
    rng = np.random.default_rng(1)
    deep, soft = rng.integers(0, 65536, (61, 83)).astype(np.uint16), rng.normal(size=(61, 83)).astype(np.float32)
    Image.fromarray(deep).save(tmp_path / "lzw16.tif", compression="tiff_lzw")
    Image.fromarray(deep).save(tmp_path / "lzw16p.tif", compression="tiff_lzw", tiffinfo={317: 2})
    Image.fromarray(deep).save(tmp_path / "packbits.tif", compression="packbits")
    tifffile.imwrite(tmp_path / "zlibp.tif", deep, compression="zlib", predictor=2, byteorder=">", rowsperstrip=7)
    tifffile.imwrite(tmp_path / "big.tif", deep, bigtiff=True, tile=(16, 32))
    tifffile.imwrite(tmp_path / "rgb16.tif", np.repeat(deep[..., None], 3, 2), photometric="rgb", compression="zlib")
    for path in list_images(tmp_path):
        assert (read_micrograph(path, bar=0).pixels == deep).all() and read_micrograph(
            path, bar=0
        ).pixels.dtype == np.uint16, path.name
    Image.fromarray(soft).save(tmp_path / "soft.tif", compression="tiff_lzw", tiffinfo={317: 3})
    assert (read_micrograph(tmp_path / "soft.tif", bar=0).pixels == soft).all()
    twelve = deep & 4095  # a 12-bit camera: three bytes for two pixels, rows on whole bytes
    bits = "".join("".join(f"{v:012b}" for v in row).ljust(-(-83 * 12 // 8) * 8, "0") for row in twelve)
    packed = np.frombuffer(int(bits, 2).to_bytes(len(bits) // 8, "big"), np.uint8).reshape(61, -1)
    path = made.tiff(tmp_path / "twelve.tif", packed, bits=12)
    data = bytearray(path.read_bytes())
    at = data.find(struct.pack("<HHII", 256, 4, 1, packed.shape[1]))
    struct.pack_into("<I", data, at + 8, 83)
    path.write_bytes(bytes(data))
    m = read_micrograph(path, bar=0)
    assert (m.pixels == twelve).all() and m.pixels.dtype == np.uint16
    smooth = np.asarray(Image.fromarray(np.add.outer(np.arange(96), np.arange(96)).astype(np.uint8)))
    Image.fromarray(smooth).save(tmp_path / "jpeg.tif", compression="jpeg", quality=95)
    assert np.abs(read_micrograph(tmp_path / "jpeg.tif", bar=0).pixels.astype(int) - smooth).max() < 8


def png(path, pixels, depth, colour, interlace=0, pieces=()):
    """A PNG made by hand; pixels [h, w, samples]."""
    piece = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = b"".join(b"\0" + row.astype(f">u{depth // 8}").tobytes() for row in pixels)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + piece(b"IHDR", struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], depth, colour, 0, 0, interlace))
        + b"".join(piece(k, d) for k, d in pieces)
        + piece(b"IDAT", zlib.compress(rows))
        + piece(b"IEND", b"")
    )
    return path


def test_png_keeps_sixteen_bits(tmp_path):
    deep = np.random.default_rng(2).integers(0, 65536, (50, 60)).astype(np.uint16)
    opaque = np.full_like(deep, 65535)
    for colour, stack in ((0, [deep]), (4, [deep, opaque]), (2, [deep] * 3), (6, [deep] * 3 + [opaque])):
        m = read_micrograph(png(tmp_path / "a.png", np.dstack(stack), 16, colour), bar=0)
        assert (
            m.pixels.dtype == np.uint16 and (m.pixels == deep).all() and m.tags["bits"] == 16 and not m.tags["warnings"]
        ), colour
    m = read_micrograph(png(tmp_path / "a.png", np.dstack([deep] * 3 + [opaque // 2]), 16, 6), bar=0)
    assert (m.pixels == deep).all() and "transparency" in m.tags["warnings"][0]
    m = read_micrograph(
        png(
            tmp_path / "a.png",
            deep[..., None],
            16,
            0,
            pieces=[(b"zTXt", b"x\0\0" + zlib.compress(b"a" * 10**7)), (b"tEXt", b"broken"), (b"iCCP", b"??")],
        ),
        bar=0,
    )
    assert (m.pixels == deep).all()  # what is no image does not matter


def test_white_is_zero_at_any_depth(tmp_path):
    rng = np.random.default_rng(4)
    for dtype in ("u1", "u2", "u4", "i2", "f4"):
        grey = values(dtype, 1, rng)
        stored = (
            grey.max() + grey.min() - grey
            if dtype == "f4"
            else ~grey
            if dtype[0] == "i"
            else np.iinfo(dtype).max - grey
        )
        for compression, encode in ((1, bytes), (5, made.lzw), (8, zlib.compress)):
            m = read_micrograph(
                made.tiff(tmp_path / "a.tif", stored, photometric=0, compression=compression, encode=encode), bar=0
            )
            assert (
                np.allclose(m.pixels, grey, rtol=1e-5, atol=1e-2 if dtype == "f4" else 0) and m.tags["inverted"] is True
            ), (dtype, compression)
    grey = values("u1", 1, rng)
    Image.fromarray(grey).save(tmp_path / "j.tif", compression="jpeg", quality=95)
    data = (tmp_path / "j.tif").read_bytes()
    (tmp_path / "k.tif").write_bytes(
        data.replace(struct.pack("<HHIHH", 262, 3, 1, 1, 0), struct.pack("<HHIHH", 262, 3, 1, 0, 0))
    )
    a, b = (read_micrograph(tmp_path / n, bar=0).pixels for n in ("j.tif", "k.tif"))
    assert (a == 255 - b).all()


def test_palettes(tmp_path, image):
    shuffled = np.random.default_rng(0).permutation(256)
    for scale in (257, 256, 1):
        palette = np.repeat(shuffled[None] * scale, 3, 0)
        for compression, encode in ((1, bytes), (5, made.lzw)):
            m = read(
                made.tiff(
                    tmp_path / "a.tif",
                    np.argsort(shuffled).astype(np.uint8)[image],
                    photometric=3,
                    palette=palette,
                    compression=compression,
                    encode=encode,
                )
            )
            assert (m.pixels == image).all(), (scale, compression)
    fire = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) // 2]) * 257
    with pytest.raises(BadInput, match="colour"):
        read(made.tiff(tmp_path / "a.tif", image, photometric=3, palette=fire))
    m = read(
        made.tiff(tmp_path / "a.tif", image, [(34118, 2, made.zeiss().encode("latin-1"))], photometric=3, palette=fire)
    )
    assert (m.pixels == image).all()  # of Zeiss, the index is the grey value
    with pytest.raises(BadInput, match="palette"):
        read(made.tiff(tmp_path / "a.tif", image, photometric=3, palette=fire[:, :100]))
    coloured = Image.fromarray(image).convert("P")
    coloured.putpalette((fire // 257).T.astype(np.uint8).ravel().tolist())
    for ending in ("png", "bmp"):
        coloured.save(tmp_path / f"b.{ending}")
        with pytest.raises(BadInput, match="colour"):
            read(tmp_path / f"b.{ending}")


@pytest.mark.parametrize("code", [256, 257, 258, 277, 278, 322, 323])
def test_tags_that_are_zero_or_absurd(tmp_path, image, code):
    for options in ({}, dict(tile=(64, 64)), dict(compression=8, encode=zlib.compress), dict(compression=7)):
        for value in (0, 3, 65535):
            kind = 3 if code in (258, 277) else 4
            path = made.tiff(
                tmp_path / "a.tif",
                image[:128, :128],
                [(code, kind, struct.pack("<H" if kind == 3 else "<I", value))],
                drop=(code,),
                **options,
            )
            try:
                assert isinstance(read_micrograph(path), Micrograph)
            except BadInput:
                pass


def test_bilevel(tmp_path, image):
    map_ = image > 120
    for name, options in (
        ("plain.tif", {}),
        ("g4.tif", dict(compression="group4")),
        ("lzw.tif", dict(compression="tiff_lzw")),
        ("one.png", {}),
        ("one.bmp", {}),
    ):
        Image.fromarray(map_).save(tmp_path / name, **options)
        with pytest.raises(LabelMap):
            read(tmp_path / name)
        assert (read(tmp_path / name, force=True).pixels == map_ * np.uint8(255)).all(), name


def test_jpeg_says_its_quality(tmp_path, image):
    for quality in (1, 20, 49, 50, 51, 75, 90, 98, 100):
        Image.fromarray(image).save(
            tmp_path / "a.jpg", quality=quality, comment=b"x" * 999, exif=b"Exif\0\0" + bytes(99)
        )
        Image.fromarray(image).convert("RGB").save(tmp_path / "b.jpg", quality=quality, progressive=True)
        Image.fromarray(image).save(tmp_path / "c.tif", compression="jpeg", quality=quality)
        for name in ("a.jpg", "b.jpg", "c.tif"):
            assert read(tmp_path / name, bar=0, force=True).tags["lossy"] == f"JPEG, quality {quality}", (name, quality)
    tables = Image.open(tmp_path / "a.jpg").quantization
    Image.fromarray(image).save(
        tmp_path / "a.jpg", qtables=[[v + 5 + k % 3 for k, v in enumerate(t)] for t in tables.values()]
    )
    assert read(tmp_path / "a.jpg").tags["lossy"].startswith("JPEG, quality about 9")
    for preset, quality in (("low", 86), ("medium", 89), ("high", 91), ("web_low", 52)):  # tables of Adobe's
        Image.fromarray(image).save(tmp_path / "a.jpg", quality=preset)
        assert read(tmp_path / "a.jpg", force=True).tags["lossy"] == f"JPEG, quality about {quality}"
    for name, options in (("d.png", {}), ("e.bmp", {}), ("f.tif", {}), ("g.tif", dict(compression="tiff_lzw"))):
        Image.fromarray(image).save(tmp_path / name, **options)
        assert "lossy" not in read(tmp_path / name).tags


def test_info_tells_what_was_found(tmp_path, wide, capsys):
    from semgan_nb.cli import main

    path = made.tiff(
        tmp_path / "a.tif", with_bar(wide[:442, :512], 29), [(34682, 2, made.fei(hfw="0.0034"))], more=[wide[:64, :64]]
    )
    assert main(["info", str(path)]) == 0
    text = capsys.readouterr().out
    assert (
        "3372 nm/px" in text
        and "bar 29 rows" in text
        and "pixel_size_from: FEI PixelWidth" in text
        and "note: has 2 pages" in text
        and "note: FEI PixelWidth says" in text
    )
    assert main(["info", str(path), "--page", "1"]) == 0 and "64 x 64 px" in capsys.readouterr().out
    assert main(["info", str(path), "--page", "2"]) == 2
    Image.fromarray(wide[:64, :64]).save(tmp_path / "b.png", dpi=(300, 300))
    assert (
        main(["info", str(tmp_path / "b.png"), "--print-density"]) == 0 and "8.467e+04 nm/px" in capsys.readouterr().out
    )


def test_refused_kinds(tmp_path, image):
    rng = np.random.default_rng(5)
    for name, pixels, options, word in (
        ("u8", image.astype(np.uint64), {}, "64-bit"),
        ("i8", image.astype(np.int64), dict(compression=8, encode=zlib.compress), "64-bit"),
        ("complex", image.astype(np.complex64), {}, "complex"),
        ("cmyk", np.dstack([image] * 4), dict(photometric=5), "CMYK"),
        ("lab", np.dstack([image] * 3), dict(photometric=8), "L*a*b*"),
        ("ycbcr", np.dstack([image] * 3), dict(photometric=6), "YCbCr"),
        ("five", np.dstack([image] * 5), dict(photometric=1), "5 channels"),
        ("inf", np.where(image == 100, np.inf, image).astype(np.float32), {}, "finite"),
        ("nan16", np.where(image == 100, np.nan, image).astype(np.float16), {}, "finite"),
        ("zstd", image.astype(np.uint16), dict(compression=50000, encode=lambda d: b"(\xb5/\xfd" + d[:999]), "zstd"),
    ):
        with pytest.raises(BadInput, match=word.replace("*", "[*]")) as caught:
            read(made.tiff(tmp_path / f"{name}.tif", pixels, rows=32, **options))
        assert f"{name}.tif" in str(caught.value) and "\n" not in str(caught.value)
    Image.fromarray(np.dstack([image] * 4), "CMYK").save(tmp_path / "cmyk.jpg")
    with pytest.raises(BadInput, match="CMYK"):
        read(tmp_path / "cmyk.jpg")
    deep = rng.integers(0, 65536, (64, 64, 3)).astype(
        np.uint16
    )  # 16-bit true colour, in every packing: refused as colour, never taken at 8 bits
    for compression, encode in ((1, bytes), (5, made.lzw), (8, zlib.compress)):
        path = made.tiff(tmp_path / "deep.tif", deep, photometric=2, compression=compression, encode=encode)
        with pytest.raises(BadInput, match="colour"):
            read(path)
        assert read(path, force=True).pixels.dtype == np.uint16
    for magic, word in (
        (b"GIF89a", "GIF"),
        (b"RIFF\0\0\0\0WEBP", "WebP"),
        (b"%PDF-1.7", "PDF"),
        (b"PK\3\4", "ZIP"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"\0\0\0\3\0\0\1", "DM3"),
    ):
        (tmp_path / "x.tif").write_bytes(magic + bytes(200))
        with pytest.raises(BadInput, match=word):
            read(tmp_path / "x.tif")


def test_alpha_and_second_channels(tmp_path, image):
    half = np.where(np.indices(image.shape)[1] < 40, 0, 255).astype(np.uint8)
    for name, channels, warned in (
        ("la.png", [image, image * 0 + 255], False),
        ("rgba.png", [image] * 3 + [image * 0 + 255], False),
        ("la2.png", [image, half], True),
        ("rgba2.png", [image] * 3 + [half], True),
    ):
        Image.fromarray(np.dstack(channels)).save(tmp_path / name)
        m = read(tmp_path / name)
        assert (m.pixels == image).all() and bool(m.tags["warnings"]) == warned, name
    m = read(made.tiff(tmp_path / "two.tif", np.dstack([image, 255 - image]), [(338, 3, struct.pack("<H", 0))]))
    assert (m.pixels == image).all() and m.tags["warnings"]


def test_truncated_strips(tmp_path, image):
    for compression, encode in (
        (1, bytes),
        (5, made.lzw),
        (8, zlib.compress),
        (32773, made.packbits),
        (34925, lzma.compress),
    ):
        for cut in (lambda d: encode(d)[:-99], lambda d: encode(d[:-512]), lambda d: b"", lambda d: encode(d)[:4]):
            calls = iter(range(99))
            path = made.tiff(
                tmp_path / "a.tif",
                image,
                rows=64,
                compression=compression,
                encode=lambda d: cut(d) if next(calls) == 3 else encode(d),
            )
            with pytest.raises(BadInput, match="damaged"):
                read(path)
    for ending in ("bmp", "jpg"):
        Image.fromarray(image).save(tmp_path / f"whole.{ending}")
        data = (tmp_path / f"whole.{ending}").read_bytes()
        for share in (0.3, 0.6, 0.9, 0.99):
            (tmp_path / f"cut.{ending}").write_bytes(data[: int(share * len(data))])
            with pytest.raises(BadInput, match="damaged"):
                read(tmp_path / f"cut.{ending}")
    Image.fromarray(image).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    for at in range(60, len(data) - 20, len(data) // 25):  # a single wrong bit shows
        wrong = bytearray(data)
        wrong[at] ^= 4
        (tmp_path / "wrong.png").write_bytes(bytes(wrong))
        with pytest.raises(BadInput):
            read(tmp_path / "wrong.png")


def test_a_strip_without_a_length_is_missing(tmp_path, image):
    "Eight strips and the length of one: the other seven would be memory that nobody wrote."
    path = tmp_path / "short.tif"
    tifffile.imwrite(path, image, rowsperstrip=64)
    with tifffile.TiffFile(path) as tif:
        at = tif.pages[0].tags[279].offset
    data = bytearray(path.read_bytes())
    struct.pack_into("<HHII", data, at, 279, 4, 1, 64 * image.shape[1])
    path.write_bytes(data)
    with pytest.raises(BadInput, match="strips are missing"):
        read_micrograph(path)


def whole_files(folder, image):
    """One small valid file of each kind."""
    small, deep = image[:120, :128], image[:120, :128].astype(np.uint16) * 255
    barred = with_bar(small, 29)
    yield made.tiff(folder / "plain.tif", small, rows=16)
    yield made.tiff(
        folder / "fei.tif", barred, [(34682, 2, made.fei(128, 120, 29))], compression=8, encode=zlib.compress, rows=32
    )
    yield made.tiff(
        folder / "zeiss.tif",
        small,
        [(34118, 2, made.zeiss().encode("latin-1"))],
        photometric=3,
        palette=np.arange(256)[None].repeat(3, 0) * 257,
    )
    yield made.tiff(folder / "tescan.tif", small, [(50431, 1, made.tescan())], compression=5, encode=made.lzw, rows=16)
    yield made.tiff(
        folder / "ij.tif",
        deep,
        [(270, 2, b"ImageJ=1.51a\nimages=1\nunit=micron\n\0")],
        order=">",
        resolution=(5, 5),
        unit=1,
        compression=32773,
        encode=made.packbits,
    )
    yield made.tiff(
        folder / "tiles.tif",
        np.dstack([deep] * 3),
        tile=(32, 48),
        photometric=2,
        compression=8,
        encode=zlib.compress,
        predictor=2,
        more=[small],
    )
    tifffile.imwrite(folder / "big.tif", deep, bigtiff=True, imagej=False, metadata=None)
    yield folder / "big.tif"
    Image.fromarray(small).save(folder / "jpeg.tif", compression="jpeg")
    yield folder / "jpeg.tif"
    Image.fromarray(small).save(folder / "grey.png")
    yield folder / "grey.png"
    yield png(folder / "deep.png", np.dstack([deep] * 3), 16, 2)
    Image.fromarray(small).save(folder / "a.jpg", comment=made.phenom())
    yield folder / "a.jpg"
    Image.fromarray(small).save(folder / "b.jpg", progressive=True)
    yield folder / "b.jpg"
    Image.fromarray(small).save(folder / "a.bmp")
    yield folder / "a.bmp"


def test_damaged_files_give_a_micrograph_or_one_sentence(tmp_path, image):
    """Valid files, cut and altered in many places: nothing but a Micrograph or BadInput comes out, in little time
    and memory."""
    chance, slowest = random.Random(7), 0
    rounds = int(os.environ.get("SEMGAN_FUZZ", "1"))
    (tmp_path / "whole").mkdir()
    tracemalloc.start()
    for path in whole_files(tmp_path / "whole", image):
        data = path.read_bytes()
        read(path)
        table = (
            struct.unpack_from((">" if data[:2] == b"MM" else "<") + "I", data, 4)[0]
            if data[2:4] in (b"*\0", b"\0*")
            else 0
        )
        wrong = [
            data[:n]
            for n in (
                0,
                1,
                3,
                4,
                7,
                8,
                20,
                50,
                *(chance.randrange(len(data)) for _ in range(9 * rounds)),
                len(data) - 1,
            )
        ]
        for _ in range(45 * rounds):
            changed = bytearray(data)
            for _ in range(chance.choice((1, 1, 1, 2, 8))):
                near_table = table and chance.random() < 0.8  # most harm is done where sizes and places stand
                at = (
                    min(len(data) - 1, table + chance.randrange(250))
                    if near_table
                    else chance.randrange(min(len(data), 400))
                    if chance.random() < 0.6
                    else chance.randrange(len(data))
                )
                changed[at] = chance.choice((0, 1, 255, 128, chance.randrange(256)))
            wrong.append(bytes(changed))
        for k, bad in enumerate(wrong):
            target = tmp_path / f"bad{path.suffix}"
            target.write_bytes(bad)
            began = time.monotonic()
            tracemalloc.reset_peak()
            try:
                for number in (0, 1) if k % 10 == 0 else (0,):
                    assert isinstance(read_micrograph(target, page=number), Micrograph)
            except BadInput as error:
                assert "\n" not in str(error) and target.name in str(error)
            slowest = max(slowest, time.monotonic() - began)
            assert tracemalloc.get_traced_memory()[1] < 400e6, (path.name, k)
    tracemalloc.stop()
    assert slowest < 20
