"""A VAE and its training as people write them in PyTorch.

`eager`: the loop of any tutorial. `fused`: with the fused Adam. `loss`: the loss under torch.compile, and the fused
Adam. `whole`: fetch, binarisation, loss and gradients in one compiled function, and the fused Adam. `optimizer`: the
same, and a compiled Adam.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from peers.worker import BETAS, EPS, RATE, Job, Run, Setting, batches, serve
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value


def sequence(layers: list[tuple[int, int]], weights: list) -> nn.Sequential:
    """Linear layers with ReLU between, from given weights."""
    made: list[nn.Module] = []
    for (inputs, outputs), (weight, bias) in zip(layers, weights, strict=True):
        layer = nn.Linear(inputs, outputs)
        layer.weight.data, layer.bias.data = torch.tensor(weight), torch.tensor(bias)
        made += [layer, nn.ReLU()]
    return nn.Sequential(*made[:-1])


class Dense(nn.Module):
    """-ELBO, or the bound of several particles, of a VAE of multilayer perceptrons; binarised in every step."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        setting, (encoder, decoder) = job.setting, job.weights()
        self.particles = setting.particles
        self.encoder = sequence(setting.encoder, encoder)
        self.decoder = sequence(setting.decoder, decoder)

    def forward(self, raw: Tensor) -> Tensor:
        p = raw.to(torch.float32) / 255
        x = (torch.rand_like(p) < p).to(torch.float32)
        mu, log_variance = self.encoder(x).chunk(2, -1)
        if self.particles == 1:
            z = mu + (0.5 * log_variance).exp() * torch.randn_like(mu)
            kl = 0.5 * (mu.square() + log_variance.exp() - 1 - log_variance).sum(-1)
            return (F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none").sum(-1) + kl).mean()
        eps = torch.randn(self.particles, *mu.shape, device=mu.device)
        z = mu + (0.5 * log_variance).exp() * eps
        log_ratio = 0.5 * (eps.square() + log_variance - z.square()).sum(-1)  # log p(z) - log q(z | x)
        logits = self.decoder(z)
        log_p = -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        return -(torch.logsumexp(log_p + log_ratio, 0) - torch.tensor(self.particles).log()).mean()


class Grey(nn.Module):
    """Cross-entropy of grey pixels + beta KL around the package's own networks, used as any nn.Module."""

    def __init__(self, job: Job) -> None:
        from peers.experiments import loaded

        super().__init__()
        experiment, data, vae = loaded(job.setting, job.images(), "cpu")
        self.beta, self.shape = experiment.objective.beta, data.shape
        self.body, self.head, self.decoder = vae.body, vae.heads["z"].raw.output, vae.likelihood.decoded.network

    def forward(self, raw: Tensor) -> Tensor:
        x = raw.to(torch.float32).view(-1, *self.shape) / 255
        mu, log_variance = self.head(self.body(x)).chunk(2, -1)
        z = mu + (0.5 * log_variance).exp() * torch.randn_like(mu)
        kl = 0.5 * (mu.square() + log_variance.exp() - 1 - log_variance).sum(-1)
        cross_entropy = F.binary_cross_entropy_with_logits(self.decoder(z)[:, 0], x, reduction="none")
        return (cross_entropy.flatten(1).sum(-1) + self.beta * kl).mean()


def model_of(job: Job) -> nn.Module:
    return (Dense(job) if job.setting.dense else Grey(job)).to(job.device)


def loop(data: Tensor, setting: Setting, step: Callable[[Tensor], Tensor]) -> Run:
    """Steps over batches in the order of each epoch."""

    def run(steps: int) -> float:
        total = torch.zeros((), device=data.device)
        draw = lambda n: torch.randperm(n, device=data.device)
        for indices in batches(len(data), setting.batch, steps, draw):
            total += step(indices)
        return total.item() / steps

    return run


def plain(job: Job, data: Tensor) -> Run:
    """loss.backward(), optimizer.step()."""
    model = model_of(job)
    fused = {"fused": True} if job.mode != "eager" else {}
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, betas=BETAS, eps=EPS, **fused)
    loss_of = torch.compile(model) if job.mode == "loss" else model

    def step(indices: Tensor) -> Tensor:
        loss = loss_of(data.index_select(0, indices))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return loop(data, job.setting, step)


def whole(job: Job, data: Tensor) -> Run:
    """All but the optimiser in one compiled function."""
    model = model_of(job)
    parameters = dict(model.named_parameters())
    fused = {"fused": True} if job.mode == "whole" else {"foreach": True}
    optimizer = torch.optim.Adam(parameters.values(), lr=RATE, betas=BETAS, eps=EPS, **fused)
    update = optimizer.step if job.mode == "whole" else torch.compile(optimizer.step)

    def gradients(leaves: dict[str, Tensor], indices: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        raw = data.index_select(0, indices)
        return grad_and_value(lambda p: functional_call(model, p, (raw,)))(leaves)

    mode = "reduce-overhead" if data.device.type == "cuda" else "default"  # with CUDA graphs
    compiled = torch.compile(gradients, fullgraph=True, dynamic=False, mode=mode)

    def step(indices: Tensor) -> Tensor:
        found, loss = compiled({name: p.detach() for name, p in parameters.items()}, indices)
        for name, parameter in parameters.items():
            parameter.grad = found[name]
        update()
        return loss

    return loop(data, job.setting, step)


def build(job: Job) -> tuple[Run, dict]:
    torch.set_num_threads(job.threads)
    torch.manual_seed(1)
    data = torch.from_numpy(job.images()).to(job.device)
    make = whole if job.mode in ("whole", "optimizer") else plain
    return make(job, data), {"versions": {"torch": torch.__version__}}


if __name__ == "__main__":
    serve(build)
