"""Sets of images that several tests measure."""
import numpy as np

from semgan_nb.dataset import write_archive
from semgan_nb.synthetic import specimens


def steel_archive(path, n):
    "An archive of n synthetic micrographs, 32 px, of eight specimens, two of them held out; its path."
    images, _, groups = specimens(n, 32, seed=4, n_specimens=8)
    write_archive(path, [dict(image=x, group=f"s{g}", part="holdout" if g in (2, 5) else "train") for x, g in zip(images, groups)], {})
    return path


def crops(texture, seed, size):
    "Sixty crops of a texture, half of them mirrored: [60, 1, size, size]."
    rng, out = np.random.default_rng(seed), []
    for _ in range(60):
        y, x = (rng.integers(0, texture.shape[0] + 1 - size) for _ in range(2))
        crop = texture[y:y + size, x:x + size]
        out.append(crop[:, ::-1] if rng.random() < 0.5 else crop)
    return np.stack(out)[:, None]
