"""The smallest training that still has everything: twenty iterations of two rounds of four images, in five ticks; no
metrics. What a test needs otherwise it replaces."""

from semgan_nb.runs import Config

TINY = Config(
    z_dim=16,
    w_dim=16,
    channel_base=64,
    channel_max=8,
    batch_size=8,
    batch_gpu=4,
    G_reg_interval=4,
    total_kimg=0.16,
    kimg_per_tick=0.032,
    snap=2,
    ada_kimg=0.5,
    metrics=(),
)
