"""The GAN in the plane: the same play again for the same seed, the slope of its landscape, and bad input."""

import numpy as np
import pytest
import torch

from semgan_nb.foundation import BadInput
from semgan_nb.toy import ToyGAN, arcs, field, move_points, toy_figure


def test_one_seed_is_one_play():
    first, second, other = (ToyGAN(20, 0.2, seed=seed).train(40) for seed in (3, 3, 4))
    assert (first.points() == second.points()).all() and first.history == second.history
    assert [row[0] for row in first.history] == [20, 40] and (first.points() != other.points()).any()


def test_the_slope_is_that_of_the_landscape():
    toy = ToyGAN(20).train(5)
    at, logits, slope = field(toy, side=201)
    up, right = np.gradient(logits, at, at)  # over kinks of the leaky ReLU in between
    apart = lambda steps, column: np.median(abs(steps - slope[..., column]))
    assert apart(right, 0) < 0.02 and apart(up, 1) < 0.02 < 0.1 < min(apart(up, 0), apart(right, 1))


def test_a_step_moves_one_network_alone():
    toy = ToyGAN(20, p=0.5)
    before = [torch.nn.utils.parameters_to_vector(net.parameters()).clone() for net in (toy.G, toy.D)]
    now = lambda: [torch.nn.utils.parameters_to_vector(net.parameters()) for net in (toy.G, toy.D)]
    toy.step_d()
    assert (now()[0] == before[0]).all() and (now()[1] != before[1]).any()
    middle = now()[1].clone()
    toy.step_g()
    assert (now()[0] != before[0]).any() and (now()[1] == middle).all() and toy.iteration == 0


def test_points_are_moved_as_often_as_p_says():
    g = torch.Generator().manual_seed(0)
    for p in (0.0, 0.2, 0.5):
        still = (move_points(arcs(4000), p, g) == arcs(4000)).all(1).float().mean()
        assert abs(float(still) - (1 - p) ** 3) < 0.03


def test_the_controller_holds_its_target_and_p_stays_without_one():
    held, alone = ToyGAN(20, 0.1, seed=1).train(400), ToyGAN(20, p=0.3, seed=1).train(40)
    assert held.p > 0 and abs(np.mean([row[1] for row in held.history[10:]]) - 0.1) < 0.1
    assert alone.p == pytest.approx(0.3) and not alone.controller.adapt


def test_bad_input_and_a_figure_before_the_first_step():
    for options in (dict(n=1), dict(p=1.5), dict(ada_target=-0.1), dict(n=2.5)):
        with pytest.raises(BadInput, match=next(iter(options))):
            ToyGAN(**options)
    assert len(toy_figure(ToyGAN(2)).axes) == 2
