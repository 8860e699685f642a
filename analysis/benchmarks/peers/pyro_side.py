"""Pyro's SVI, as in Pyro's own example of a VAE: pyro.module, a plate, an ELBO by name.

`RenyiELBO` has alpha = 0, the importance-weighted bound. It is right per datum only under a plate without a scale
of the subsample, so that the plate here is of the batch.
"""

import pyro
import pyro.distributions as dist
import torch
from peers.by_hand import loop, sequence
from peers.worker import BETAS, EPS, RATE, Job, Run, serve
from pyro.infer import SVI, JitTrace_ELBO, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor

ELBOS = {
    "Trace_ELBO": Trace_ELBO,
    "TraceMeanField_ELBO": TraceMeanField_ELBO,
    "JitTrace_ELBO": JitTrace_ELBO,
    "RenyiELBO": RenyiELBO,
}


def build(job: Job) -> tuple[Run, dict]:
    torch.set_num_threads(job.threads)
    pyro.set_rng_seed(1)
    pyro.enable_validation(False)
    data, setting = torch.from_numpy(job.images()).to(job.device), job.setting
    start = job.weights()
    encoder = sequence(setting.encoder, start[0]).to(job.device)
    decoder = sequence(setting.decoder, start[1]).to(job.device)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            prior = dist.Normal(x.new_zeros(len(x), setting.sizes[-1]), x.new_ones(len(x), setting.sizes[-1]))
            z = pyro.sample("z", prior.to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            mu, log_variance = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(mu, (0.5 * log_variance).exp()).to_event(1))

    many = {"alpha": 0, "num_particles": setting.particles, "vectorize_particles": True, "max_plate_nesting": 1}
    elbo = ELBOS[job.mode](**many if job.mode == "RenyiELBO" else {})
    svi = SVI(model, guide, pyro.optim.Adam({"lr": RATE, "betas": BETAS, "eps": EPS}), elbo)

    def step(indices: Tensor) -> float:
        p = data.index_select(0, indices).to(torch.float32) / 255
        return svi.step((torch.rand_like(p) < p).to(torch.float32)) / setting.batch

    return loop(data, setting, step), {"versions": {"pyro-ppl": pyro.__version__, "torch": torch.__version__}}


if __name__ == "__main__":
    serve(build)
