"""Which feature space finds planted copies? Embeddings of chapter 30 against `aligned_ncc` of chapter 42, on synthetic
steel and on superalloy tiles of 32 px.

    python benchmarks/memory.py [--copies 100]

Prints, for each kind of copy, the share that lies nearer to a training image than 99 % of the real images do to
another one, and the processor time.
About four minutes on one core, nearly all of it for the embeddings of eight turns of every image."""

import argparse
import os
import time


def images_of(material, rng):
    "(training images [n, 48, 48] whose middle 32 px are used, fresh images, forbidden pairs of training images [n, n])"
    import numpy as np

    from semgan_nb.micrographs import embedded, list_images, read_micrograph
    from semgan_nb.synthetic import dual_phase_islands

    if material == "synthetic":
        fractions = np.linspace(0.37, 0.9, 10)
        found = np.stack([dual_phase_islands(rng, 48, fractions[i % 10], field_um=7.2)[0] for i in range(600)])
        return found[:300], found[300:], np.eye(300, dtype=bool)
    places, found = [], []
    for k, path in enumerate(list_images(embedded())):
        small = read_micrograph(path).image[:512, :512].reshape(128, 4, 128, 4).mean((1, 3))
        for y, x in rng.integers(0, 81, (34, 2)):
            places.append((k, y, x))
            found.append(np.rint(small[y : y + 48, x : x + 48]).astype(np.uint8))
    places, found = np.array(places), np.stack(found)
    train, fresh = places[:, 0] % 2 == 0, places[:, 0] % 2 == 1
    p = places[train]
    overlap = (p[:, None, 0] == p[None, :, 0]) & (np.abs(p[:, None, 1:] - p[None, :, 1:]).max(2) < 32)
    return found[train], found[fresh], overlap


def middle(images, dy=0, dx=0):
    return images[:, None, 8 + dy : 40 + dy, 8 + dx : 40 + dx]


def kinds(train, fresh, chosen, rng):
    "name -> copies, uint8 [n, 1, 32, 32]"
    import numpy as np

    from semgan_nb.distances import blur
    from semgan_nb.memorisation import dihedral

    copy = train[chosen]
    turn = lambda images: np.stack([dihedral(image, k) for image, k in zip(images, rng.integers(1, 8, len(images)))])
    noisy = lambda images, s: np.rint(images + s * rng.standard_normal(images.shape)).clip(0, 255).astype(np.uint8)
    return {
        "fresh": middle(fresh),
        "exact": middle(copy),
        "turned": turn(middle(copy)),
        "noise 4": noisy(middle(copy), 4),
        "noise 8": noisy(middle(copy), 8),
        "blur 0.5": blur(middle(copy), 0.5),
        "blur 1": blur(middle(copy), 1),
        "moved 1": middle(copy, 1, 0),
        "moved 2": middle(copy, 2, 2),
        "moved 4": middle(copy, -4, 3),
        "all": noisy(blur(turn(middle(copy, 3, -2)), 0.7), 6),
    }


def main():
    import numpy as np

    from semgan_nb.extractors import get_extractor
    from semgan_nb.memorisation import aligned_ncc, dihedral

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=100)
    parser.add_argument(
        "--materials", nargs="+", choices=("synthetic", "superalloy"), default=["synthetic", "superalloy"]
    )
    options = parser.parse_args()
    copies = options.copies
    print(f"{'':24}{'fresh':>6}", "  exact turned  n4  n8 b0.5  b1  m1  m2  m4 all   processor time, s")
    for material in options.materials:
        rng = np.random.default_rng(0)
        train, fresh, same = images_of(material, rng)
        chosen = rng.permutation(len(train))[:copies]
        sets = kinds(train, fresh, chosen, rng)

        def embedded_in(name):
            extractor = get_extractor(name)
            mean = lambda images: np.mean(
                [extractor(np.ascontiguousarray(dihedral(images, k))) for k in range(8)], axis=0
            ).astype(float)
            reference = mean(middle(train))
            apart = lambda x: (
                -np.sqrt(np.maximum((x**2).sum(1)[:, None] + (reference**2).sum(1) - 2 * x @ reference.T, 0))
            )
            return apart(reference), lambda images: apart(mean(images))

        def aligned():
            return aligned_ncc(middle(train), middle(train)), lambda images: aligned_ncc(images, middle(train))

        for name, space in (
            ("lite0", lambda: embedded_in("lite0")),
            ("random", lambda: embedded_in("random")),
            ("likeness", aligned),
        ):
            began = time.process_time()
            own, near = space()
            own = np.where(same, -np.inf, own)
            limit = np.quantile(own.max(1), 0.99, method="higher")
            shares = [float((near(images).max(1) > limit).mean()) for images in sets.values()]
            print(
                f"{material:14}{name:10}",
                *(f"{100 * share:5.0f}" for share in shares),
                f"{time.process_time() - began:12.1f}",
                flush=True,
            )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
