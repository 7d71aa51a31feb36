"""Sets of images that several tests measure."""

import numpy as np
import tifffile
from PIL import Image

from semgan_nb.archives import write_archive
from semgan_nb.micrographs import embedded, list_images
from semgan_nb.synthetic import dual_phase, specimens


def steel_archive(path, n):
    "An archive of n synthetic micrographs, 32 px, of eight specimens, two of them held out; its path."
    images, _, groups = specimens(n, 32, seed=4, n_specimens=8)
    write_archive(
        path,
        [dict(image=x, group=f"s{g}", part="holdout" if g in (2, 5) else "train") for x, g in zip(images, groups)],
        {},
    )
    return path


def archive_of(path, images, settings=None, name="n{}", group="g{}", groups=5, **more):
    "An archive of images, all for training, in so many groups; `more` replaces what its manifest says of each."
    side = images.shape[-1]
    about = dict(source="", source_sha256="", crop=(0, 0, side, side), pixel_size_nm=None, fraction=None, part="train")
    write_archive(
        path,
        [
            about | more | dict(name=name.format(i), image=x, group=group.format(i % groups))
            for i, x in enumerate(images)
        ],
        settings or {},
    )
    return path


def noise_archive(path, n=40, pixel_size_nm=(10.0, 10.0)):
    "n images of noise, 16 px, in five groups, all for training; its path."
    images = np.random.RandomState(0).randint(0, 256, (n, 16, 16), dtype=np.uint8)
    return archive_of(path, images, dict(made_by="test"), source="noise", pixel_size_nm=pixel_size_nm)


def quarters(folder):
    "Quarters of six shipped micrographs, three specimens of two."
    folder.mkdir()
    for path in list_images(embedded())[:6]:
        Image.open(path).crop((0, 0, 256, 256)).save(folder / path.name)
    return folder


def crops(texture, seed, size):
    "Sixty crops of a texture, half of them mirrored: [60, 1, size, size]."
    rng, out = np.random.default_rng(seed), []
    for _ in range(60):
        y, x = (rng.integers(0, texture.shape[0] + 1 - size) for _ in range(2))
        crop = texture[y : y + size, x : x + size]
        out.append(crop[:, ::-1] if rng.random() < 0.5 else crop)
    return np.stack(out)[:, None]


def steel(k, size=160, fraction=0.5):
    return dual_phase(np.random.default_rng(k), size, fraction, field_um=size / 10)[0]


def sem_folder(root):
    "Eight micrographs of four specimens, 16-bit with scale and a bar among them; the folder."
    root.mkdir()
    for k in range(8):
        image = steel(k, fraction=0.4 + 0.15 * (k % 4))
        name = root / f"s{k % 4}_{k}"
        if k == 5:
            tifffile.imwrite(
                name.with_suffix(".tif"),
                image.astype(np.uint16) * 257,
                imagej=True,
                resolution=(10, 10),
                metadata={"unit": "um"},
            )
        else:
            tifffile.imwrite(name.with_suffix(".tif"), np.repeat(image[..., None], 3, 2), photometric="rgb")
    return root
