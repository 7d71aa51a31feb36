"""Files as microscopes write them, made by hand from what is known of their formats."""

import struct

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 11: 4, 12: 8, 16: 8}


def tiff(
    path,
    pixels,
    extra=(),
    *,
    order="<",
    photometric=1,
    compression=1,
    encode=bytes,
    rows=None,
    bits=None,
    form=None,
    planar=1,
    palette=None,
    resolution=None,
    unit=None,
    predictor=None,
    drop=(),
    tile=None,
    more=(),
):
    """Write a TIFF byte by byte. `pixels` [h, w] or [h, w, samples] as stored; `extra`: (code, type, bytes);
    `encode`: of a strip; `more`: further pages."""
    out, pages = bytearray((b"II*\0" if order == "<" else b"MM\0*") + b"\0\0\0\0"), [pixels, *more]
    link = 4
    for page in pages:
        page = np.asarray(page)
        samples = page.shape[2] if page.ndim == 3 else 1
        h, w = page.shape[:2]
        data = page.astype(page.dtype.newbyteorder(order))
        planes = [data] if planar == 1 or samples == 1 else [data[..., k] for k in range(samples)]
        chunks = []
        for plane in planes:
            if tile:
                plane = np.pad(plane, [(0, -h % tile[0]), (0, -w % tile[1])] + [(0, 0)] * (plane.ndim - 2))
                chunks += [
                    plane[y : y + tile[0], x : x + tile[1]] for y in range(0, h, tile[0]) for x in range(0, w, tile[1])
                ]
            else:
                chunks += [plane[y : y + (rows or h)] for y in range(0, h, rows or h)]
        chunks = [encode(np.ascontiguousarray(c).tobytes()) for c in chunks]
        offsets = []
        for chunk in chunks:
            offsets.append(len(out))
            out += chunk + b"\0" * (len(chunk) % 2)
        depth, kind = bits or page.dtype.itemsize * 8, form or {"u": 1, "i": 2, "f": 3, "c": 6, "b": 1}[page.dtype.kind]
        pack = lambda letter, *values: struct.pack(f"{order}{len(values)}{letter}", *values)
        tags = [
            (256, 4, pack("I", w)),
            (257, 4, pack("I", h)),
            (258, 3, pack("H", *[depth] * samples)),
            (259, 3, pack("H", compression)),
            (262, 3, pack("H", photometric)),
            (277, 3, pack("H", samples)),
            (284, 3, pack("H", planar)),
            (339, 3, pack("H", *[kind] * samples)),
        ]
        if tile:
            tags += [
                (322, 4, pack("I", tile[1])),
                (323, 4, pack("I", tile[0])),
                (324, 4, pack("I", *offsets)),
                (325, 4, pack("I", *map(len, chunks))),
            ]
        else:
            tags += [
                (273, 4, pack("I", *offsets)),
                (278, 4, pack("I", rows or h)),
                (279, 4, pack("I", *map(len, chunks))),
            ]
        if resolution:
            tags += [(282 + k, 5, pack("I", int(round(r * 1e4)), 10**4)) for k, r in enumerate(resolution)]
        if unit is not None:
            tags.append((296, 3, pack("H", unit)))
        if predictor:
            tags.append((317, 3, pack("H", predictor)))
        if palette is not None:
            tags.append((320, 3, pack("H", *np.asarray(palette).ravel().tolist())))
        tags = sorted([t for t in tags if t[0] not in drop] + list(extra), key=lambda t: t[0])
        values, at = [], len(out) + 2 + 12 * len(tags) + 4
        for code, kind, data in tags:
            count = len(data) // SIZES[kind]
            if len(data) <= 4:
                values.append(struct.pack(order + "HHI", code, kind, count) + data.ljust(4, b"\0"))
            else:
                values.append(struct.pack(order + "HHII", code, kind, count, at))
                at += len(data) + len(data) % 2
        struct.pack_into(order + "I", out, link, len(out))
        link = len(out) + 2 + 12 * len(tags)
        out += struct.pack(order + "H", len(tags)) + b"".join(values) + b"\0\0\0\0"
        for _, _, data in tags:
            if len(data) > 4:
                out += data + b"\0" * (len(data) % 2)
    path.write_bytes(bytes(out))
    return path


def lzw(data):
    """LZW as TIFF has it, without compressing: literals, the table cleared before its codes need ten bits."""
    codes = []
    for k, byte in enumerate(data):
        if k % 200 == 0:
            codes.append(256)
        codes.append(byte)
    bits = "".join(f"{c:09b}" for c in [*codes, 257])
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def packbits(data):
    return b"".join(bytes([len(part) - 1]) + part for part in (data[k : k + 128] for k in range(0, len(data), 128)))


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
    return np.vstack([image[: h - rows] if over else image, np.asarray(canvas)])


def fei(width=512, rows=442, bar=29, pixel="3.3724e-006", hfw="0.00172667", beam="EBeam", **other):
    """Text of FEI's tag."""
    scan = f"[Scan]\r\nPixelWidth={pixel}\r\nPixelHeight={other.get('pixel_y', pixel)}\r\n" if pixel is not None else ""
    return (
        "[User]\r\nDate=06/13/2016\r\nTime=05:06:40"
        f" PM\r\n[System]\r\nSystemType=Quanta\r\n[Beam]\r\nHV=5000\r\nSpot=\r\nBeam={beam}\r\nScan=EScan\r\n[{beam}]\r\nHFW={hfw}\r\nWD=0.00403466\r\nEmissionCurrent=\r\n{scan}[Stage]\r\nWorkingDistance=0.00403466\r\n[Image]\r\nResolutionX={width}\r\nResolutionY={rows}\r\nMagCanvasRealWidth=0.20720\r\nMagnificationMode=3\r\n[Detectors]\r\nName=ETD\r\nMode=SE\r\n[PrivateFei]\r\nDatabarHeight={bar}\r\nTimeOfCreation=13.06.2016"
        " 17:06:40\r\n\0"
    ).encode("latin-1")


def zeiss(
    head="7.343750e-009",
    width=2048,
    height=1536,
    image_pixel="3.672 nm",
    pixel="7.344 nm",
    field="7.520 µm",
    mode="SEM",
    **other,
):
    """Text of Zeiss' tag; an entry that is None is left out."""
    lines = ["0", "0"]
    for block in range(4):
        lines += [str(block), head, "5.000000e+004", "6", "2.000000e+004", "1.0e+000", "2.0e+000", "2.796514e-003"]
    pairs = [
        ("DP_DETECTOR_CHANNEL", "Signal A = InLens"),
        ("DP_SEM", "SEM = SUPRA 40"),
        ("DP_FIB_IMAGING", f"FIB Imaging = {mode}"),
        ("AP_MAG", f"Mag = {other.get('mag', '  50.00 K X')}"),
        ("AP_ACTUALKV", "EHT = 20.00 kV"),
        ("AP_MANUALKV", "EHT Target = 19.00 kV"),
        ("AP_WD", "WD =  2.8 mm"),
        ("AP_DATE", "Date :18 Jul 2019"),
        ("AP_TIME", "Time :10:09:27"),
        ("SV_VERSION", "Version = V06.00.00.00 : 09-Jun-16"),
        ("DP_IMAGE_STORE", width and f"Store resolution = {width} * {height}"),
        ("AP_PIXEL_SIZE", pixel and f"Pixel Size = {pixel}"),
        ("AP_IMAGE_PIXEL_SIZE", image_pixel and f"Image Pixel Size = {image_pixel}"),
        ("AP_WIDTH", field and f"Width = {field}"),
    ]
    pairs = [p for p in pairs if p[1]]
    return "\r\n".join([*lines, str(len(pairs)), *(line for pair in pairs for line in pair), ""])


def tescan(pixel="4.1e-008", strip="120"):
    """Bytes of TESCAN's tag: a small picture, the main text, that of the column."""
    main = (
        "[MAIN]\r\nDevice=MIRA3"
        f" LMH\r\nDate=2019-03-12\r\nTime=10:11:12\r\nMagnification=5000\r\nPixelSizeX={pixel}\r\nPixelSizeY={pixel}\r\nImageStripSize={strip}\r\n"
    )
    column = "[SEM]\r\nHV=20000.0\r\nWD=0.0101\r\nDetector=SE\r\nStageTilt=0\r\n"
    blocks = [(1, bytes(range(256))), (2, main.encode()), (3, column.encode())]
    return b"".join(struct.pack("<IH", len(b) + 2, kind) + b for kind, b in blocks) + struct.pack("<IH", 2, 0)


def phenom(pixel="0.694952", unit="um", bar=64, width=1024):
    """Phenom's XML."""
    return (
        f'<FeiImage version="1"><pixelWidth unit="{unit}">{pixel}</pixelWidth><pixelHeight'
        f' unit="{unit}">{pixel}</pixelHeight><databarHeight>{bar}</databarHeight>'
        f"<displayWidth>{width}</displayWidth><cropHint><left>0</left><right>{width}</right></cropHint><workingDistance"
        ' unit="mm">6.1</workingDistance>'
        '<acquisition><scan><detector>BSD</detector><highVoltage unit="kV">-15</highVoltage></scan></acquisition>'
        "<instrument><type>ProX</type><edition>G5</edition></instrument></FeiImage>"
    ).encode()


def hitachi(
    model="TM3000",
    pixel="506.25",
    size="1280x1100",
    magnification="250",
    first="[SemImageFile]\n",
    name="a.tif",
    **other,
):
    """Text of a Hitachi side-car."""
    entries = dict(
        InstructName=model,
        SerialNumber="104598-07",
        DataNumber="0046",
        ImageName=name,
        Directory="D:\\Messung\\µm",
        PixelSize=pixel,
        DataSize=size,
        Magnification=magnification,
        MicronMarker="300000",
        AcceleratingVoltage="15000 Volt",
        DecelerationVoltage="",
        WorkingDistance="6900 um",
        EmissionCurrent="72500 nA",
        SignalName="BSE COMPO",
        Date="16/08/2016",
        Time="18:56:58",
        Condition="Vacc=15.0kV Mag=x250 WD=6.90mm",
        Comment="[]",
        **other,
    )
    return first + "".join(f"{key}={value}\n" for key, value in entries.items() if value is not None)


def jeol(full="2560 1920", marker="10um", bar="91", magnification="430", **other):
    """Text of an older JEOL side-car; further keys as given."""
    entries = {
        "$CM_FORMAT": "JEOL-SEM",
        "$CM_VERSION": "1.0",
        "$CM_LABEL": "UMN",
        "$CM_DATE": "2019/09/30",
        "$CM_TIME": "09:59:24",
        "$CM_INSTRUMENT": "8530F",
        "$CM_SIGNAL": "COMPO",
        "$CM_DETECTOR": "",
        "$CM_MAG": magnification,
        "$CM_ACCEL_VOLT": "15.00",
        "$$SM_WD": "10.74",
        "$CM_FULL_SIZE": full,
        "$$SM_MICRON_MARKER": marker,
        "$$SM_MICRON_BAR": bar,
        **other,
    }
    return "".join(f"{key} {value}\n" for key, value in entries.items() if value is not None)


def sis(*nm):
    """Tag of Olympus' programs for each page: bytes whose places `place_sis` fills in; sizes in nm."""
    entry = struct.pack("<4s6xhhhhh6x32sH", b"SIS0", 4, 15, 12, 5, 121, b"overview", 1) + struct.pack("<hhI", 1, 1, 0)
    return entry + struct.pack("<10xhdd8xd2x34s32s", -9, nm[0], nm[-1], 1000.0, b"Veleta", b"TEM")


def place_sis(path, *sizes):
    """Set the places inside the SIS records of a file, and the sizes of each in nm, page by page."""
    data, at = bytearray(path.read_bytes()), 0
    for nm in sizes:
        at = data.index(b"SIS0", at)
        struct.pack_into("<I", data, at + 64, at + 68)
        struct.pack_into("<dd", data, at + 68 + 12, nm, nm)
        at += 68
    path.write_bytes(bytes(data))
    return path
