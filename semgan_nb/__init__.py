"""Train a GAN on micrographs: StyleGAN2 with adaptive discriminator augmentation."""

__version__ = "0.1.0"
