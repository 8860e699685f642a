"""Many particles of many data, in chunks that bound memory: what is made of their densities is recorded once.

The encoder runs once per datum. Of a long computation the function from features to results is recorded, so that the
programs' effect handlers run no more, and of a very long one compiled. All chunks have one shape; the last ones, of
what is left over, run as they are, so that nothing is recorded twice.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_vae.capture import record, simplify, unvalidated
from pyro_vae.guides import Refined
from pyro_vae.planning import Treatment, choose_treatment, compile_recording
from pyro_vae.sites import Batch, Densities
from pyro_vae.vae import VAE, densities

CHUNK = 2**23
"""Numbers in the largest tensor of a chunk: 32 MB in float32, a few of which are alive at a time."""
CACHED = {"cpu": 2**21, "cuda": 2**26}
"""The same where a few passes over it are all that is made of it: on a CPU it then stays in the cache."""
DATA_PER_CHUNK = 100

type Compile = Literal["auto", "on", "off"]
type Offsets = Mapping[str, Tensor]


def chunks(batch: Batch, size: int) -> Iterator[Batch]:
    """Consecutive parts of a batch, `size` data each."""
    for start in range(0, batch.size, size):
        yield batch.map(itemgetter(slice(start, start + size)))


def data_per_chunk(vae: VAE, num_particles: int, most: int = 512) -> int:
    """How many data with that many particles keep the largest tensor within `CHUNK`."""
    per_datum = vae.variant.cells * num_particles * vae.widest
    return max(1, min(most, CHUNK // per_datum))


def particles_per_chunk(vae: VAE, num_data: int) -> int:
    """How many particles of that many data keep the largest tensor within `CHUNK`."""
    return max(1, CHUNK // (vae.variant.cells * num_data * vae.widest))


class Particles[T]:
    """What a function makes of the densities of K particles of each of many data.

    Example:
        >>> from pyro_vae.variant import Latent, Variant
        >>> vae, batch = VAE(Variant(latent=Latent(dim=2)), (64,)).eval(), Batch(torch.rand(5, 64))
        >>> weights = Particles(vae, lambda d, part: d.log_w, num_particles=30, num_data=5)
        >>> [sum(k for k, log_w in weights(part)) for part in weights.parts(batch)]
        [30]
    """

    def __init__(
        self,
        vae: VAE,
        function: Callable[[Densities, Batch], T],
        num_particles: int,
        num_data: int,
        compile: Compile = "auto",
    ) -> None:
        """Choose the shape of a chunk, and what is done with the function.

        Args:
            vae: the model, in evaluation mode; its parameters must not change while this is in use.
            function: densities of k particles of B data, and these data -> tensors, in any containers.
            num_particles: K, of each datum.
            num_data: N, planned in all.
            compile: `off`: never; otherwise where the planned work repays it.
        """
        self.vae, self.function, self.total = vae, function, num_particles
        device = next(vae.parameters()).device
        per_particle = vae.variant.cells * vae.widest
        self.data, self.particles = _shape(CACHED[device.type] // per_particle, num_particles, num_data)
        calls = (num_data // self.data) * (num_particles // self.particles)
        numbers = num_data * num_particles * per_particle
        self.treatment: Treatment = choose_treatment(vae.variant, calls, numbers, device, compile)
        self._recorded: Callable[..., T] | None = None

    def parts(self, batch: Batch) -> Iterator[Batch]:
        """Consecutive parts of a batch, as many data at a time as a chunk has."""
        return chunks(batch, self.data)

    def __call__(self, part: Batch, offsets: Offsets | None = None) -> Iterator[tuple[int, T]]:
        """Numbers of particles k, K in all, and what the function makes of each k.

        Args:
            part: one of the `parts`.
            offsets: site -> additions (B, raw outputs) to the raw output of the guide's heads; a refined guide finds
                its own, once for all particles.
        """
        with torch.no_grad(), unvalidated():
            features = self.vae.features(part)
            if offsets is None and isinstance(self.vae.variant.guide, Refined):
                offsets = self.vae.refined(part, features)
        for done in range(0, self.total, self.particles):
            k = min(self.particles, self.total - done)
            yield k, self._chunk(k, features, part, dict(offsets or {}))

    @torch.no_grad()
    def _chunk(self, k: int, features: Tensor, part: Batch, offsets: dict[str, Tensor]) -> T:
        """The function at k particles of some data, recorded where the chunk has the shape of the others."""

        def eager(features: Tensor, part: Batch, offsets: dict[str, Tensor]) -> T:
            return self.function(densities(self.vae, part, k, offsets=offsets, features=features), part)

        if self.treatment == "eager" or (part.size, k) != (self.data, self.particles):
            with unvalidated():
                return eager(features, part, offsets)
        if self._recorded is None:
            recorded = simplify(record(eager, features, part, offsets))
            compiled = self.treatment == "compiled"
            self._recorded = compile_recording(recorded, features.device) if compiled else recorded
        return self._recorded(features, part, offsets)


def _shape(most: int, num_particles: int, num_data: int) -> tuple[int, int]:
    """Data and particles of a chunk of at most so many rows; if possible so that none is left over.

    >>> _shape(2500, 1000, 360), _shape(2500, 5000, 360), _shape(2600, 5001, 360), _shape(2500, 4999, 360)
    ((2, 1000), (1, 2500), (1, 1667), (1, 2500))
    """
    most = max(1, most)
    if num_particles <= most:
        return min(most // num_particles, num_data, DATA_PER_CHUNK), num_particles
    fewest = math.ceil(num_particles / most)
    parts = next((n for n in range(fewest, 2 * fewest + 1) if num_particles % n == 0), fewest)
    return 1, math.ceil(num_particles / parts)


def collected(
    vae: VAE,
    function: Callable[[Densities, Batch], tuple[Tensor, ...]],
    batch: Batch,
    num_particles: int,
    offsets: Offsets | None = None,
    progress: Callable[[int], object] = lambda n: None,
) -> tuple[Tensor, ...]:
    """What a function makes of the densities of K particles of N data, all of it.

    Args:
        vae: the model, in evaluation mode.
        function: densities of k particles of B data, and these data -> tensors that broadcast to (k, B).
        batch: N data.
        num_particles: K.
        offsets: of the raw output of the guide's heads (N, raw outputs), by site.
        progress: called with the number of data just done.

    Returns:
        A tensor (K, N) for each that the function returns, float64 on the CPU.
    """
    particles, columns, done = Particles(vae, function, num_particles, batch.size), list[list[Tensor]](), 0
    for part in particles.parts(batch):
        own = None if offsets is None else {name: value[done : done + part.size] for name, value in offsets.items()}
        rows: list[Any] = [
            [value.expand(k, part.size).double().cpu() for value in found] for k, found in particles(part, own)
        ]
        columns.append([torch.cat(some) for some in zip(*rows, strict=True)])
        done += part.size
        progress(part.size)
    return tuple(torch.cat(some, 1) for some in zip(*columns, strict=True))
