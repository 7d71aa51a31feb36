"""Chapter 01: reading, refusing, the data bar."""
import io
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageDraw, ImageFont

from semgan_nb.micrographs import (BadInput, LabelMap, Micrograph, atomic, embedded, find_bar, list_images, read_micrograph,
                                   show, to_uint8)
from semgan_nb.synthetic import dual_phase


@pytest.fixture(scope="module")
def image():
    return np.asarray(Image.open(embedded() / "spot2_0d_0.png"))


@pytest.fixture(scope="module")
def steel():
    return dual_phase(np.random.default_rng(0), 512, 0.5, field_um=51.2)[0]


def with_bar(image, rows, background=0, ink=255, frame=0, over=False, text=True, gap=0):
    """A micrograph with a drawn data bar of this many rows, below or over it."""
    h, w = image.shape
    canvas = Image.new("L", (w, rows), background)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(max(8, int(0.26 * rows)))
    if text:
        draw.text((8, 0.10 * rows), "15.0kV x1.00k SE WD 5.2mm", fill=ink, font=font)
        draw.text((8, 0.52 * rows), "2022/03/04 A7", fill=ink, font=font)
        draw.rectangle((0.7 * w, 0.76 * rows, 0.95 * w, 0.8 * rows), fill=ink)
        draw.text((0.78 * w, 0.2 * rows), "50um", fill=ink, font=font)
    if frame:
        draw.rectangle((gap, gap, w - 1 - gap, rows - 1 - gap), outline=ink, width=frame)
    return np.vstack([image[:h - rows] if over else image, np.asarray(canvas)])


def jpeg(image, quality=85):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


BARS = [dict(), dict(background=255, ink=0), dict(frame=2), dict(background=255, ink=0, frame=3), dict(background=40, ink=230),
        dict(background=200, ink=10, frame=1), dict(over=True), dict(background=255, ink=0, over=True, frame=1), dict(frame=2, gap=2)]


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
        for mount in (0, 2, 30):                            # vacuum or mount below an edge
            image = np.where(y < edge, specimen, rng.normal(mount, mount / 10, (300, 300)).clip(0, 255))
            assert find_bar(image.astype(np.uint8)) == 0
    assert find_bar(np.full((200, 200), 7, np.uint8)) == 0


def test_real_files_of_a_folder():
    folder = os.environ.get("SEMGAN_REAL_SEM")
    if not folder:
        pytest.skip("SEMGAN_REAL_SEM does not name a folder with uhcs/, nbt-ceramic/ and nasa-superalloy/")
    seen = 0
    for name, shape, rows in (("uhcs", (522, 645), 38), ("nbt-ceramic", (943, 1024), 59), ("nasa-superalloy", (512, 512), 0)):
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
                assert m.pixel_size_nm[1] == pytest.approx(29.14, rel=1e-3) or m.pixel_size_nm[1] == pytest.approx(72.85, rel=1e-3)
                assert m.tags["voltage_kv"] == 15 and 10 < m.tags["working_distance_mm"] < 12
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
    shuffled = np.random.default_rng(0).permutation(256).astype(np.uint8)      # a palette whose order is not that of grey
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


def test_zeiss_palette_is_read_by_its_indices(tmp_path, image):
    text = "0\r\n0\r\n0\r\n0\r\nAP_MAG\r\nMag = 105 X\r\n\0"
    colours = np.arange(256, dtype=np.uint16)[None].repeat(3, 0) * 257
    colours[:, 9:240:9] = 65535                                      # annotation colours in between, as that vendor does
    tifffile.imwrite(tmp_path / "z.tif", image, photometric="palette", colormap=colours, extratags=[(34118, 2, len(text), text, True)], metadata=None)
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
    text = (f"[User]\r\nDate=03/04/2022\r\n[System]\r\nSystemType=Quanta\r\n[Beam]\r\nHV=15000\r\nBeam=EBeam\r\n[EBeam]\r\nWD=0.0052\r\n"
            f"[Scan]\r\nPixelWidth={pixel}\r\nPixelHeight={pixel}\r\n[Image]\r\nResolutionX={width}\r\nResolutionY={rows}\r\n"
            f"[Detectors]\r\nName=ETD\r\n[PrivateFei]\r\nDatabarHeight={bar}\r\n\0")
    return [(34682, 2, len(text), text, True)]


def test_fei_record(tmp_path, image):
    barred = with_bar(image, 29)
    tifffile.imwrite(tmp_path / "fei.tif", barred, extratags=fei_tag(512, 512, 29), metadata=None)
    m = read_micrograph(tmp_path / "fei.tif")
    assert m.pixel_size_nm == pytest.approx((48.6, 48.6)) and m.bar_rows == 29 and m.image.shape == (512, 512)
    assert m.tags["vendor"] == "FEI" and m.tags["voltage_kv"] == 15 and m.tags["working_distance_mm"] == pytest.approx(5.2)
    assert m.tags["detector"] == "ETD"
    tifffile.imwrite(tmp_path / "half.tif", image[::2, ::2], extratags=fei_tag(512, 512, 0), metadata=None)
    m = read_micrograph(tmp_path / "half.tif")                       # resized after recording: its scale would be wrong
    assert m.pixel_size_nm is None and "resized" in m.tags["warning"]


def test_first_of_many_pages(tmp_path, image):
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([image, 255 - image, image]), photometric="minisblack")
    m = read_micrograph(tmp_path / "stack.tif")
    assert (m.pixels == image).all() and m.tags["pages"] == 3 and "3 pages" in m.tags["warning"]
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
        "lfs": (write("lfs.tif", b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n"), "git lfs pull"),
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
    cases["nan"] = (folder / "nan.tif", "finite")
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
    assert len(fig.axes) == 3 and [len(ax.texts) for ax in fig.axes] == [0, 1, 0] and fig.axes[1].texts[0].get_text() == "5 µm"
