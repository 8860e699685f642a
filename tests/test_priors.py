"""Priors: the distribution that they are, on every batch shape."""

import math

import pyro
import pytest
import torch

from pyro_vae.networks import Shape
from pyro_vae.priors import Prior, StandardNormal


@pytest.mark.usefixtures("float64")
def test_standard_normal_by_hand():
    p = StandardNormal().build(3, None, Shape((4,)))(None, None, None)
    z = torch.randn(7, 3)
    assert p.event_shape == (3,)
    torch.testing.assert_close(p.log_prob(z), -0.5 * (z.square().sum(-1) + 3 * math.log(2 * math.pi)))


def test_standard_normal_follows_dtype_and_device_and_stores_nothing():
    prior = StandardNormal().build(3, None, Shape((4,)))
    assert prior.state_dict() == {}
    assert list(prior.parameters()) == []
    assert prior.double()(None, None, None).sample().dtype == torch.float64
    with pyro.validation_enabled(False):  # a check reads its outcome
        assert prior.to("meta")(None, None, None).rsample((2,)).device.type == "meta"


def test_an_abstract_prior_builds_nothing():
    with pytest.raises(TypeError, match="Prior builds no prior"):
        Prior().build(2, None, Shape((4,)))
