"""How long all descriptors of chapter 11 take: by one process and by several, otsu and kmeans, with and without persistence, in turn.

`python benchmarks/microstructure.py --images 1000 --size 512 --workers 1 2`"""
import argparse
import time

import numpy as np

from semgan_nb.microstructure import Segmentation, measure, same_steel
from semgan_nb.synthetic import specimens


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--distinct", type=int, default=100, help="different ones; the rest are their copies in other turns")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--few", type=int, default=20, help="images for kmeans and persistence")
    options = parser.parse_args()
    some, _, _ = specimens(min(options.distinct, options.images), options.size, field_um=0.0992 * options.size, workers=None)
    images = np.concatenate([np.rot90(some[:, ::-1] if k % 2 else some, k // 2, (1, 2)) for k in range(-(-options.images // len(some)))])[: options.images]
    print(f"{len(images)} images of {options.size} px")
    for workers in options.workers:
        began, used = time.perf_counter(), time.process_time()
        found = measure(images, workers=workers)
        print(f"all but persistence, otsu, {workers} processes: {time.perf_counter() - began:7.1f} s", f"({time.process_time() - used:.1f} s of the processor)" if workers == 1 else "")
    began = time.process_time()
    same_steel(found, found.take(slice(None, None, 2)))
    print(f"same_steel of {len(found)} and {len(found) // 2}: {time.process_time() - began:.1f} s of the processor")
    few = images[: options.few]
    for name, how, persistent in (("otsu", Segmentation(), False), ("kmeans", Segmentation("kmeans"), False), ("multiotsu, 3 phases", Segmentation("multiotsu", 3), False), ("otsu, with persistence", Segmentation(), True)):
        began = time.process_time()
        measure(few, how=how, persistent=persistent, workers=1)
        print(f"{name}: {(time.process_time() - began) / len(few):.3f} s of the processor for an image")


if __name__ == "__main__":
    main()
