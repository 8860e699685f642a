"""What only a GPU can show: CUDA graphs with changing weights, no wait for the device, peak memory."""

import pytest
import torch
from test_capture import conv_vae, training_step

import pyro_vae as pv
from pyro_vae.evaluation import score

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]


@pytest.mark.filterwarnings("ignore")
def test_replayed_steps_follow_the_plan_and_never_wait():
    """beta and the rate change in every step, although the launch is the same; nothing is read back."""
    step, state, plan, data = training_step(conv_vae().cuda(), compiled=True, device="cuda")
    with torch.no_grad():
        for _ in range(3):  # compiles, and records the graph
            step(state, plan, data)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(5):
                step(state, plan, data)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert int(state.position) == 8
    assert int(state.updates) == 8
    assert torch.isfinite(state.totals).all()


def test_scoring_stays_within_its_memory():
    vae = conv_vae().cuda().eval()
    x = torch.bernoulli(torch.full((500, 1, 9, 7), 0.3, device="cuda"))
    torch.cuda.reset_peak_memory_stats()
    score(vae, pv.Batch(x), 5000)
    assert torch.cuda.max_memory_allocated() < 2 * 2**30
