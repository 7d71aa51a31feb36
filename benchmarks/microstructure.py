"""How long all descriptors of chapter 33 take: by one process and by several, otsu and kmeans, with and without
persistence, in turn; and beside them the random field of chapter 45.

`python benchmarks/microstructure.py --images 1000 --size 512 --workers 1 2`

With `--masks FOLDER` (micrographs, and masks of the same names in FOLDER/masks, 1 = the dark phase): how near each
way of segmentation comes to them.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from PIL import Image

from semgan_nb.random_field import RandomField
from semgan_nb.micrographs import list_images, read_micrograph
from semgan_nb.descriptors import Segmentation, phase_of, segment
from semgan_nb.microstructure import measure
from semgan_nb.same_material import compare_microstructures
from semgan_nb.synthetic import specimens


def against_masks(folder):
    """Fractions and pixels of the dark phase beside those of masks that were drawn."""
    pairs = [
        (read_micrograph(path, force=True).image, np.asarray(Image.open(mask)) == 1)
        for path in list_images(folder)
        if (mask := folder / "masks" / f"{path.stem}.png") != path and mask.exists() and path.parent == folder
    ]
    drawn = np.array([mask.mean() for _, mask in pairs])
    print(f"{len(pairs)} masks: fraction {drawn.mean():.3f} ± {drawn.std():.3f}")
    for method in ("otsu", "kmeans"):
        for more in (dict(clip=0.1), dict(), dict(clip=5), dict(flatten=60), dict(sigma=2.0)):
            how = Segmentation(method, phase="dark", **more)
            began = time.process_time()
            found = [phase_of(segment(image, how), how) for image, _ in pairs]
            used = (time.process_time() - began) / len(pairs)
            fraction, right = (
                np.array([m.mean() for m in found]),
                np.mean([(m == mask).mean() for m, (_, mask) in zip(found, pairs)]),
            )
            print(
                f"{method:7}{', '.join(f'{key} {value:g}' for key, value in more.items()) or 'as it is':12} fraction"
                f" {fraction.mean():.3f} ± {fraction.std():.3f}, off by {np.abs(fraction - drawn).mean():.3f} (at most"
                f" {np.abs(fraction - drawn).max():.3f}), r {np.corrcoef(fraction, drawn)[0, 1]:.2f}, {right:.1%} of"
                f" the pixels, {used:.3f} s of the processor",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument(
        "--distinct", type=int, default=100, help="different ones; the rest are their copies in other turns"
    )
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--few", type=int, default=20, help="images for kmeans and persistence")
    parser.add_argument("--fitted", type=int, default=100, help="images that the random field is fitted to")
    parser.add_argument("--masks", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    if options.masks:
        return against_masks(options.masks)
    some, _, _ = specimens(
        min(options.distinct, options.images), options.size, field_um=0.0992 * options.size, workers=None
    )
    images = np.concatenate(
        [np.rot90(some[:, ::-1] if k % 2 else some, k // 2, (1, 2)) for k in range(-(-options.images // len(some)))]
    )[: options.images]
    print(f"{len(images)} images of {options.size} px")
    for workers in options.workers:
        began, used = time.perf_counter(), time.process_time()
        found = measure(images, workers=workers)
        print(
            f"all but persistence, otsu, {workers} processes: {time.perf_counter() - began:7.1f} s",
            f"({time.process_time() - used:.1f} s of the processor)" if workers == 1 else "",
        )
    began = time.process_time()
    compare_microstructures(found, found.take(slice(None, None, 2)))
    print(
        f"compare_microstructures of {len(found)} and {len(found) // 2}: {time.process_time() - began:.1f} s of the"
        " processor"
    )
    few = images[: options.few]
    for name, how, persistent in (
        ("otsu", Segmentation(), False),
        ("kmeans", Segmentation("kmeans"), False),
        ("multiotsu, 3 phases", Segmentation("multiotsu", 3), False),
        ("otsu, with persistence", Segmentation(), True),
    ):
        began = time.process_time()
        measure(few, how=how, persistent=persistent, workers=1)
        print(f"{name}: {(time.process_time() - began) / len(few):.3f} s of the processor for an image", flush=True)
    began = time.process_time()
    field = RandomField(images[: options.fitted])
    fitted, began = time.process_time() - began, time.process_time()
    field.render(len(few), np.random.default_rng(0))
    print(
        f"random field: fitted to {min(options.fitted, len(images))} images in {fitted:.1f} s, drawn in"
        f" {(time.process_time() - began) / len(few):.3f} s an image, of the processor"
    )


if __name__ == "__main__":
    main()
