"""A variant and a data shape make a `VAE`: an ordinary Pyro model and guide, and the density function.

Letters, everywhere in the package: x data, z latent, y label, N data, C classes (cells of the grid of
missing labels), K particles or importance samples, B batch, D latent dimension, L layers, S draws. Batch
dimensions are right-aligned (C, K, B): classes at -3, particles at -2, data at -1. `log_w` is
log p(x, y, z) - log q(z | x, y), per datum, in nats, unscaled.

Only this file says `pyro.sample`; every part returns a distribution.
"""

import math
import uuid
from collections.abc import Callable, Collection, Mapping
from functools import cached_property, partial
from typing import Any, Literal, cast

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.func import functional_call

from pyro_vae.guides import Classifier, Refined
from pyro_vae.networks import Shape, fill
from pyro_vae.sites import (
    IMPOSSIBLE,
    Batch,
    Densities,
    Site,
    observed,
    one_hot,
    sites,
    without_labels,
)
from pyro_vae.standardize import Standardization
from pyro_vae.variant import PARTS, Sees, Variant

ENUMERABLE: Any = {"enumerate": "parallel"}
"""Lets TraceEnum_ELBO and MCMC sum a label out."""

type Program = Literal["model", "guide"]


class UniformLabel(nn.Module):
    """p(y) = 1/C."""

    logits: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("logits", torch.zeros(classes), persistent=False)

    def forward(self) -> dist.Distribution:
        """p(y)."""
        return dist.Categorical(logits=self.logits)


class VAE(nn.Module):
    """The modules of a variant, and the Pyro pair that they make.

    Example:
        >>> from pyro_vae.variant import Latent, Variant
        >>> vae = VAE(Variant(latent=Latent(dim=2)), (1, 8, 8))
        >>> batch = Batch(torch.rand(5, 1, 8, 8))
        >>> densities(vae, batch, num_particles=3).log_w.shape
        torch.Size([3, 5])
    """

    def __init__(
        self, variant: Variant, x: tuple[int, ...], given: int = 0, masked: bool = False, standardized: bool = False
    ) -> None:
        """Build the modules.

        Args:
            variant: the declaration.
            x: event shape of a datum: (D,), or (channels, rows, columns) of an image.
            given: number of covariates.
            masked: whether entries of x can be missing.
            standardized: whether the networks see standardised x; see `standardize`.
        """
        super().__init__()
        self.variant = variant
        width = sum(label.classes for label in variant.labels.values())
        self.shape = shape = Shape(tuple(x), width, given, masked, variant.classes)
        self.standardization = Standardization(shape.x) if standardized else None
        seen = {part: shape._replace(y=variant.label_width(part)) for part in PARTS}
        layers = list(variant.layers.items())
        self.label_priors = nn.ModuleDict({name: UniformLabel(s.classes) for name, s in variant.labels.items()})
        self.priors = nn.ModuleDict()
        for (name, dim), above in zip(layers, [*layers[1:], None], strict=True):
            self.priors[name] = variant.priors[name].build(dim, above and above[1], seen["prior"])
        self.likelihood = variant.likelihood.build(variant.decoder, layers[0][1], seen["decoder"])
        self.body = variant.guide.body(variant.encoder, shape)
        features = cast(int, self.body.features)
        self.classifiers = nn.ModuleDict(
            {name: Classifier(features, s.classes) for name, s in variant.missing.items() if s.rule == "guide"}
        )
        self.guide_order = list(variant.layers) if variant.guide.order == "bottom_up" else list(variant.layers)[::-1]
        self.heads = nn.ModuleDict()
        neighbour: int | None = None
        for name in self.guide_order:
            dim = variant.layers[name]
            number = list(variant.layers).index(name) + 1
            self.heads[name] = variant.guide.head(features, neighbour, dim, seen["encoder"], (number, len(layers)))
            neighbour = dim
        for name, prior in self.priors.items():
            attach = getattr(prior, "attach", None)
            if attach is not None:  # a prior that is made of the guide
                attach(self.body, self.heads[name])

    def forward(
        self,
        program: Program,
        batch: Batch,
        offsets: Mapping[str, Tensor] | None = None,
        features: Tensor | None = None,
    ) -> Tensor | None:
        """Run a program by name, so that `functional_call` can swap the parameters under it."""
        if program == "model":
            return self.model(batch)
        self.guide(batch, offsets, features)
        return None

    def model(self, batch: Batch) -> Tensor:
        """The generative story: p(y), p(z_L | y), ..., p(x | z_1, y)."""
        with pyro.plate("data", batch.size, dim=-1):
            y = self._labels(batch, [self.label_priors[name]() for name in self.variant.labels], guide=False)
            z = None
            for name in list(self.variant.layers)[::-1]:
                z = pyro.sample(name, self.priors[name](z, self.seen(y, "prior"), batch.given))
            p_x, x = self.decoded(z, y, batch.given), batch.x
            if batch.mask is not None and x is not None:
                # A masked entry must be legal before log_prob: NaN x mask 0 still has a NaN gradient.
                x, p_x = fill(x, batch.mask), observed(p_x, batch.mask)
            return pyro.sample("x", p_x.to_event(len(self.shape.x) - p_x.event_dim), obs=x)

    def decoded(self, z: Tensor | None, y: Tensor | None = None, given: Tensor | None = None) -> Any:
        """p(x | z_1, y, given) of the decoder, in the units of the data.

        Args:
            z: the layer next to the data (..., D_1).
            y: one-hot labels (..., width), all sites side by side; None without sites.
            given: covariates (..., G); None without any.
        """
        p_x = self.likelihood(z, self.seen(y, "decoder"), given)
        return p_x if self.standardization is None else self.standardization.undone(p_x)

    def guide(self, batch: Batch, offsets: Mapping[str, Tensor] | None = None, features: Tensor | None = None) -> None:
        """The amortised encoder: q(y | x), then q(z_l | x, y, neighbour) in the guide's order."""
        h = self.features(batch) if features is None else features
        if offsets is None and isinstance(self.variant.guide, Refined):
            offsets = self.refined(batch, h)
        self._heads(batch, h, offsets or {})

    def _heads(self, batch: Batch, h: Tensor, offsets: Mapping[str, Tensor]) -> None:
        """The guide from the features on."""
        with pyro.plate("data", batch.size, dim=-1):
            q_y = [
                self.classifiers[name](h) if name in self.classifiers else self.label_priors[name]()
                for name in self.variant.labels
            ]
            y = self._labels(batch, q_y, guide=True)
            neighbour = None
            for name in self.guide_order:
                needed = self.variant.guide.combines(top=name == list(self.variant.layers)[-1])
                p = self.priors[name](neighbour, self.seen(y, "prior"), batch.given) if needed else None
                q = self.heads[name](h, neighbour, self.seen(y, "encoder"), p, offsets.get(name))
                neighbour = pyro.sample(name, q)

    def features(self, batch: Batch) -> Tensor:
        """h = body(x, mask, given) (B, features): what the encoder makes of a batch, before any head."""
        return self.body(self.encoded(cast(Tensor, batch.x)), batch.mask, batch.given)

    def encoded(self, x: Tensor) -> Tensor:
        """x (B, *event) in the units that the encoder sees: standardised, counts as log(1 + x)."""
        x = x if self.standardization is None else self.standardization(x)
        for_encoder = getattr(self.likelihood, "for_encoder", None)
        return x if for_encoder is None else for_encoder(x)

    def refined(self, batch: Batch, h: Tensor | None = None) -> dict[str, Tensor]:
        """Offsets (B, raw outputs) of each head after the gradient steps of a refined guide; see `Refined`.

        Args:
            batch: B data.
            h: their features, where they are known already: the encoder runs once, however many steps there are.
        """
        spec = cast(Refined, self.variant.guide)
        h = self.features(batch) if h is None else h
        with torch.enable_grad(), poutine.block():
            offsets = {
                name: h.new_zeros(batch.size, cast(Any, head).raw.output.out_features, requires_grad=True)
                for name, head in self.heads.items()
            }
            for _ in range(spec.steps):
                elbo = self._elbo(batch, h, offsets).sum()
                gradients = torch.autograd.grad(elbo, list(offsets.values()), create_graph=self.training)
                for (name, d), g in zip(list(offsets.items()), gradients, strict=True):
                    shortened = g * (spec.max_norm / (g.norm(dim=-1, keepdim=True) + 1e-6)).clamp(max=1)
                    offsets[name] = d + spec.learning_rate * shortened
                if not self.training:
                    offsets = {name: d.detach().requires_grad_() for name, d in offsets.items()}
        return offsets if self.training else {name: d.detach() for name, d in offsets.items()}

    def _elbo(self, batch: Batch, h: Tensor, offsets: dict[str, Tensor]) -> Tensor:
        """The ELBO of each datum (..., B), nats, from one draw of a guide with these features and offsets."""
        cells = label_cells(self)
        q = poutine.trace(poutine.condition(lambda: self._heads(batch, h, offsets), cells)).get_trace()
        p = poutine.trace(poutine.replay(poutine.condition(self.model, cells), q)).get_trace(batch)
        d = Densities(sites(p), sites(q), tuple(self.variant.missing))
        return without_labels(d.log_w, d, batch, self.variant.rule)

    def _labels(self, batch: Batch, distributions: list[dist.Distribution], guide: bool) -> Tensor | None:
        """Sample the label sites; one-hot labels side by side (..., sum of classes), None without sites."""
        if not distributions:
            return None
        dtype = next(self.likelihood.parameters()).dtype
        columns = None if batch.y is None else batch.y.reshape(batch.size, -1).unbind(-1)
        values = []
        for i, (name, label) in enumerate(self.variant.labels.items()):
            known, fn = None if columns is None else columns[i], distributions[i]
            if batch.x is None:  # generating: what is given holds, the rest is drawn from p(y)
                value = pyro.sample(name, _certain(fn, known), infer=ENUMERABLE)
            elif label.observed == "always":
                value = _given_label(name, fn, known, guide)
            else:
                value = _missing_label(name, fn, None if label.observed == "never" else known, guide)
            values.append(one_hot(value, label.classes, dtype))
        widest = torch.broadcast_shapes(*[value.shape[:-1] for value in values])
        return torch.cat([value.expand(*widest, value.shape[-1]) for value in values], -1)

    def seen(self, y: Tensor | None, part: Sees) -> Tensor | None:
        """The columns of one-hot labels (..., width) that condition a part; None if none does."""
        columns = self.variant.seen_by(part)
        if y is None or len(columns) == len(self.variant.labels):
            return y
        return torch.cat([y[..., c] for c in columns], -1) if columns else None

    @property
    def numel(self) -> int:
        """Number of entries of a datum."""
        return math.prod(self.shape.x)

    @cached_property
    def widest(self) -> int:
        """Numbers in the widest tensor that one particle of one datum needs: what bounds memory."""
        sizes = [self.numel, *(getattr(prior, "widest", 0) for prior in self.priors.values())]

        def seen(_: nn.Module, inputs: Any, output: Any) -> None:
            sizes.extend(value.numel() for value in (*inputs, output) if torch.is_tensor(value))

        some, densities = next(self.likelihood.parameters()), list[Callable[[], Any]]()
        widths = (*(self.variant.label_width(part) for part in PARTS), self.shape.given)
        rows = (some.new_zeros(1, width) if width else None for width in widths)
        above, (y_prior, _, y_decoder, given) = cast(Tensor | None, None), rows
        with torch.no_grad(), pyro.validation_enabled(False):
            for name, dim in list(self.variant.layers.items())[::-1]:
                p, above = self.priors[name](above, y_prior, given), some.new_zeros(1, dim)
                densities.append(partial(p.log_prob, above))  # of a flow, or of the guide's at many pseudo-inputs
            hooks = [module.register_forward_hook(seen) for module in self.modules()]
            try:
                self.likelihood(above, y_decoder, given)
                for density in densities:
                    density()
            finally:
                for hook in hooks:
                    hook.remove()
        return max(sizes)

    def registered(self, name: str | None = None) -> tuple[Callable[..., Tensor], Callable[..., None]]:
        """The pair for `pyro.infer.SVI`, which finds parameters only through Pyro's param store.

        Args:
            name: prefix in the store; a new one by default, so that two models never share parameters.

        Returns:
            (model, guide), each wrapped with `pyro.module`.
        """
        prefix = name or f"vae-{uuid.uuid4().hex[:8]}"

        def model(batch: Batch) -> Tensor:
            pyro.module(prefix, self)
            return self.model(batch)

        def guide(batch: Batch) -> None:
            pyro.module(prefix, self)
            return self.guide(batch)

        return model, guide

    def initialise(self, x: Tensor) -> None:
        """Start the likelihood where the data x (N, *event) are on average, and priors among them, if they know how."""
        start = getattr(self.likelihood, "initialise", None)
        if start is not None:
            start(x if self.standardization is None else self.standardization(x))
        for prior in self.priors.values():
            start = getattr(prior, "initialise", None)
            if start is not None:
                start(self.encoded(x))


def _given_label(name: str, fn: Any, known: Tensor | None, guide: bool) -> Tensor:
    """A label that comes with the datum: conditioned on, never scored; the joint is p(x, z | y)."""
    if known is None:
        raise ValueError(f"labels.{name} is observed always: Batch(x, y=...) needs it.")
    return known if guide else pyro.sample(name, fn.mask(mask=False), obs=known)


def _missing_label(name: str, fn: Any, known: Tensor | None, guide: bool) -> Tensor:
    """A label that can be missing: enumerable; known ones are certain in the guide and a constraint in the model."""
    if known is None or guide:
        return pyro.sample(name, _certain(fn, known), infer=ENUMERABLE)
    value = pyro.sample(name, fn, infer=ENUMERABLE)
    wrong = (known >= 0) & (value != known)
    pyro.factor(f"{name}_known", torch.where(wrong, IMPOSSIBLE, 0.0).to(fn.logits.dtype))
    return value


def _certain(fn: Any, known: Tensor | None) -> Any:
    """The distribution of a label, certain where it is known."""
    if known is None:
        return fn
    hit = known[..., None] == torch.arange(fn.logits.shape[-1], device=fn.logits.device)
    certain = torch.where(hit, torch.zeros_like(fn.logits), torch.full_like(fn.logits, IMPOSSIBLE))
    return dist.Categorical(logits=torch.where((known >= 0)[..., None], certain, fn.logits))


def densities(
    vae: VAE,
    batch: Batch,
    num_particles: int = 1,
    latents: Mapping[str, Tensor] | None = None,
    freeze: Collection[Program] = (),
    offsets: Mapping[str, Tensor] | None = None,
    features: Tensor | None = None,
) -> Densities:
    """Score model and guide on the same latents: the one function behind every loss, bound and diagnostic.

    Args:
        vae: the model and guide.
        batch: B data.
        num_particles: K, particles per datum.
        latents: site -> values (..., K, B, D) to score instead of drawing from the guide.
        freeze: programs ("model", "guide") that run with detached parameters.
        offsets: site -> additions (B, raw outputs) to the raw output of the guide's heads.
        features: `vae.features(batch)` where they are known already: the encoder does not run.

    Returns:
        Sites of p and q; log_prob broadcasts to (C, K, B), nats. C only where labels can be missing.
    """
    given = _conditions(vae, latents)
    detached = {name: value.detach() for name, value in vae.named_parameters()} if freeze else {}

    def program(name: Program) -> Callable[[Batch], None]:
        def run(batch: Batch) -> None:
            functional_call(vae, detached if name in freeze else {}, (name, batch, offsets, features))

        return poutine.condition(run, given)

    with pyro.plate("particles", num_particles, dim=-2):
        q = poutine.trace(program("guide")).get_trace(batch)
        p = poutine.trace(poutine.replay(program("model"), q)).get_trace(batch)
    return Densities(sites(p), sites(q), tuple(vae.variant.missing))


def guide_sites(vae: VAE, batch: Batch, num_particles: int, latents: Mapping[str, Tensor]) -> dict[str, Site]:
    """The guide's half of `densities`, for latents that are given: the model, and with it the decoder, does not run.

    Args:
        vae: the model and guide.
        batch: B data.
        num_particles: K.
        latents: site -> values (..., K, B, D).

    Returns:
        Sites of q; log_prob broadcasts to (C, K, B), nats.
    """
    with pyro.plate("particles", num_particles, dim=-2):
        return sites(poutine.trace(poutine.condition(vae.guide, _conditions(vae, latents))).get_trace(batch))


def _conditions(vae: VAE, latents: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Latents that are given, and every cell of the labels that can be missing."""
    # Clones, because Pyro's transforms cache by tensor identity and would return an attached density.
    return {name: value.clone() for name, value in (latents or {}).items()} | label_cells(vae)


def label_cells(vae: VAE) -> dict[str, Tensor]:
    """Every combination of the labels that can be missing, on dimension -3: site -> (C, 1, 1)."""
    missing = vae.variant.missing
    if not missing:
        return {}
    device = next(vae.parameters()).device
    cells, stride, values = torch.arange(vae.variant.cells, device=device), 1, {}
    for name, label in missing.items():  # the first site changes fastest, as in Pyro's enumeration
        values[name] = (cells // stride % label.classes)[:, None, None]
        stride *= label.classes
    return values
