"""Runs: a directory that holds one training, and everything that is done with it.

DIR/experiment.yaml    the declaration, every default filled in
DIR/environment.json   versions, machine, command, what was decided
DIR/metrics.jsonl      one JSON object a line
DIR/checkpoints/       safetensors, newest and best
DIR/result.json        the result card
DIR/posterior.nc       draws as an ArviZ DataTree, once asked for
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from pyro_vae import inference_data, latent
from pyro_vae import report as pages
from pyro_vae.capture import same_random_state
from pyro_vae.classification import LabelScores, score_labels
from pyro_vae.data import Arrays, Data
from pyro_vae.diagnostics.disentanglement import mutual_information_gap
from pyro_vae.distributed import ALONE, World
from pyro_vae.evaluation import Scores, evaluate, prepared, score, scorer
from pyro_vae.experiment import Experiment
from pyro_vae.opening import read_data, read_experiment, read_own, read_vae
from pyro_vae.posterior import attributes, posterior_draws
from pyro_vae.records import PARTS, read_environment, read_json, read_metrics, write_json
from pyro_vae.result import result_card
from pyro_vae.sites import Batch
from pyro_vae.specs import DeclarationError
from pyro_vae.vae import VAE

if TYPE_CHECKING:
    import xarray

IMPORTANCE_SAMPLES = 1000


class Run:
    """One training, in memory and on disk.

    Example:
        >>> run = load("runs/digits-20260101-120000")                           # doctest: +SKIP
        >>> run.result["log_likelihood"]["value"]                               # doctest: +SKIP
        -17.2
    """

    def __init__(self, directory: Path | str, arrays: Arrays | None = None) -> None:
        """Open a run directory.

        Args:
            directory: where it is.
            arrays: the data, for a run that was trained on data in memory.

        Raises:
            DeclarationError: it is no run directory.
        """
        self.directory = Path(directory)
        self._arrays = arrays
        self.experiment: Experiment = read_experiment(self.directory)

    def __repr__(self) -> str:
        return f"Run({str(self.directory)!r})"

    @cached_property
    def data(self) -> Data:
        """The data set, read and split as in training."""
        return read_data(self.directory, self.experiment, self.environment, self._arrays)

    @cached_property
    def vae(self) -> VAE:
        """The trained model and guide, in evaluation mode."""
        return read_vae(self.directory, self.experiment, self.environment)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.vae.parameters()).device

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the entries of vectors; images, whose files may take long to read, are not looked at for it."""
        return self.data.columns or () if len(self.environment["shape"]["x"]) == 1 else ()

    def check_split(self, part: str) -> None:
        """Refuse a part that is none or holds no data."""
        if part not in PARTS:
            raise DeclarationError([f"split={part!r}: must be one of {', '.join(PARTS)}."])
        if not len(getattr(self.data, part)):
            raise DeclarationError([f"split={part!r}: holds no data; set data.validation or choose another."])

    @property
    def environment(self) -> dict[str, Any]:
        """Where and how the run was made.

        Raises:
            DeclarationError: the file is missing, damaged, or lacks what the run is opened with.
        """
        return read_environment(self.directory)

    @property
    def result(self) -> dict[str, Any]:
        """The result card."""
        path = self.directory / "result.json"
        if not path.is_file():
            raise DeclarationError([f"{self.directory}: has no result yet; `pyro-vae evaluate` makes one."])
        return read_json(path)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return read_metrics(self.directory)

    def batch(self, part: str = "test", observations: Iterable[int] | None = None) -> Batch:
        """Data as the model sees them, binarised as in evaluation.

        Args:
            part: "train", "validation" or "test".
            observations: which of them, all by default.
        """
        self.check_split(part)
        indices = None if observations is None else list(observations)
        return prepared(self.data, part, self.experiment, self.device, indices)

    def read(self, path: Path | str, need_labels: bool = True) -> tuple[Batch, dict[str, Tensor]]:
        """A file of the user's own data, treated as the training data were.

        Args:
            path: .npy, .npz, .csv or .tsv, as for `data: {name: arrays}`; an image, or a folder of images.
            need_labels: whether labels that the model conditions on must be there.

        Returns:
            The data as the model sees them, and the labels that the file has, (N,) each, -1 where there is none.

        Raises:
            DeclarationError: its shape or values are not those that the model was trained on.
        """
        own = read_own(Path(path), self.data, self.experiment, need_labels)
        known = {name: y for name, y in own.test.attributes.items() if bool((y >= 0).any())}
        return prepared(own, "test", self.experiment, self.device), known

    def evaluate(
        self,
        split: str = "test",
        num_samples: int = IMPORTANCE_SAMPLES,
        progress: Callable[[int], object] = lambda n: None,
        world: World = ALONE,
    ) -> dict[str, Any]:
        """Evaluate and write the result card.

        Args:
            split: which data.
            num_samples: K importance samples per datum.
            progress: called with the number of data just done.
            world: the processes that share the work, if several; each calls this.

        Returns:
            The card, as in result.json.
        """
        self.check_split(split)
        measured = evaluate(self.vae, self.data, self.experiment, split, num_samples, progress, world)
        return world.once(lambda: self._write_card(measured))

    def _write_card(self, measured: dict[str, Any]) -> dict[str, Any]:
        """What was measured and what is known of the run, in result.json."""
        facts = self.directory, self.experiment, self.environment, self.vae
        write_json(self.directory / "result.json", result_card(*facts, measured))
        return self.result

    def score(
        self, batch: Batch, num_samples: int = IMPORTANCE_SAMPLES, progress: Callable[[int], object] = lambda n: None
    ) -> Scores:
        """Log p(x) per datum by importance sampling, with Monte Carlo standard error and k-hat."""
        if not (variant := self.experiment.variant).normalized:
            raise DeclarationError([f"{self.directory}: {variant.why_unnormalized()}; there is no log p(x)."])
        with self.seeded():
            particles = scorer(self.vae, num_samples, batch.size, self.experiment.training.compile)
            return score(self.vae, batch, num_samples, progress, particles=particles)

    def classify(
        self, batch: Batch, num_samples: int = 100, progress: Callable[[int], object] = lambda n: None
    ) -> LabelScores:
        """What the model says of the labels of each datum by Bayes' rule, and of the data under each label.

        Args:
            batch: N data; their labels are not looked at.
            num_samples: K importance samples per datum and label.
            progress: called with the number of data just done.
        """
        with self.seeded():
            return score_labels(self.vae, batch, num_samples, progress)

    def impute(
        self, batch: Batch, num_draws: int = 4, num_samples: int = 200, seed: int | None = None
    ) -> latent.Imputed:
        """Mean, sd and draws of the entries that are missing; of a model with `data.shown`, of those not shown.

        Args:
            batch: the data.
            num_draws: S.
            num_samples: K importance samples per datum.
            seed: of the draws.

        Raises:
            DeclarationError: nothing is missing.
        """
        if batch.mask is None:
            advice = "give an --input with a mask, or train with data.missing or data.shown"
            raise DeclarationError([f"{self.directory}: nothing is missing in these data; {advice}."])
        if self.experiment.variant.likelihood.datum_at_once:
            raise DeclarationError([f"{self.directory}: its likelihood is of whole data; no entry can be imputed."])
        with self.seeded(seed):
            from_prior = self.experiment.data.shown is not None
            return latent.impute(self.vae, batch, num_draws, num_samples, from_prior)

    def encode(self, batch: Batch, num_particles: int | None = None) -> latent.Codes:
        """Mean and sd of q(z | x) per datum.

        Args:
            batch: the data.
            num_particles: draws to average over; by default 100 where labels are summed out, there are layers or
                the guide knows no moments, and 1 where mean and sd are exact without.
        """
        variant = self.experiment.variant
        with self.seeded():
            codes = latent.encode(self.vae, batch, num_particles or self._particles(bool(variant.missing)))
        # Far outside of the data an exponential goes to 0 or infinity, and q(z | x) is no density any more.
        spread = [sd.log() for sd in codes.sd.values()] if variant.guide.density and variant.guide.moments else []
        latent.check_finite([*codes.mean.values(), *codes.sd.values(), *spread])
        return codes

    def _particles(self, mixed: bool) -> int:
        """Draws that the moments of a code are averaged over: 1 where they are exact without."""
        variant = self.experiment.variant
        return 100 if mixed or len(variant.layers) > 1 or not variant.guide.moments else 1

    def locate(self, batch: Batch, layer: str | None = None) -> latent.Points:
        """Where data lie in the latent space, with what the decoder is given there; see `latent.locate`.

        Args:
            batch: B data.
            layer: latent site, by default the one next to the data.
        """
        weighed = bool(self.experiment.variant.missing) and self.experiment.variant.rule == "sum"
        with self.seeded():
            points = latent.locate(self.vae, batch, layer, self._particles(weighed))
        latent.check_finite([points.z])
        return points if self.data.shown is None else replace(points, known=batch.x)

    def decode(self, points: latent.Points, seed: int | None = None) -> Tensor:
        """E[x | z, y] (..., *event) at points of the latent space; see `latent.decode`.

        Args:
            points: where.
            seed: of the draws by which a point of a higher layer comes down where its prior knows no mean.
        """
        with self.seeded(seed):
            return latent.decode(self.vae, points, self.data.shown)

    def manifold(
        self, size: int = 20, axes: Sequence[int] | Tensor = (0, 1), around: latent.Points | None = None
    ) -> latent.Points:
        """A grid of points that share the mass of the prior evenly; see `latent.manifold`."""
        with self.seeded():
            return latent.manifold(self.vae, size, axes, around)

    def predictive(self, batch: Batch, num_draws: int = 200, seed: int | None = None) -> latent.Predictive:
        """How sure the model is of every entry of data that it has seen; see `latent.predictive`."""
        with self.seeded(seed):
            return latent.predictive(self.vae, batch, num_draws)

    def usage(self, batch: Batch) -> latent.Usage:
        """Mean and KL of every datum by latent dimension; see `latent.usage`."""
        with self.seeded():
            return latent.usage(self.vae, batch)

    def mutual_information_gap(self, split: str = "train") -> dict[str, float]:
        """Whether each known factor of the data has a latent dimension of its own (MIG)."""
        self.check_split(split)
        attributes, guide = getattr(self.data, split).attributes, self.experiment.variant.guide
        factors = {name: y for name, y in attributes.items() if len(y[y >= 0].unique()) > 1}
        if not factors or not (guide.factorized and guide.density and guide.moments):
            why = "guide is no product of normals" if factors else "data have no attribute to be a factor"
            raise DeclarationError([f"{self.directory}: its {why}; there is no mutual information gap."])
        mean, sd = (list(part.values())[-1].cpu() for part in self.encode(self.batch(split)))
        if mean.shape[1] < 2:
            raise DeclarationError([f"{self.directory}: has one latent dimension, and a gap is between two."])
        return mutual_information_gap(mean, sd, factors, self.experiment.seed)

    def sample(
        self, num: int = 64, y: Tensor | None = None, given: Tensor | None = None, seed: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Generated x, their means and the top latent, each (num, ...).

        Args:
            num: how many.
            y: labels (num,) or (num, sites); drawn from p(y) by default.
            given: covariates (num, G); those of the test data, in turn, by default.
            seed: of the draws, the run's own by default.
        """
        known = None
        if given is None and self.vae.shape.given:
            batch = self.batch("test")
            turn = torch.arange(num, device=self.device) % batch.size
            given, known = cast(Tensor, batch.given)[turn], cast(Tensor, batch.x)[turn]
        y, given = (None if tensor is None else tensor.to(self.device) for tensor in (y, given))
        with self.seeded(seed):
            x, mean, z = latent.sample(self.vae, num, y, given)
        shown = self.data.shown
        return latent.pasted(x, known, shown), latent.pasted(mean, known, shown), z

    def sample_each(
        self, site: str, num: int = 8, y: Tensor | None = None, seed: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Every class of a label site by the same draws: x, its mean and the top latent, each (num, classes, ...).

        In a row only the label differs: all else, z too where its prior does not depend on the label, is the same draw.

        Args:
            site: the label site.
            num: draws.
            y: the labels of the other sites (1, sites); drawn from p(y) by default.
            seed: of the draws, the run's own by default.
        """
        labels = self.experiment.variant.labels
        if site not in labels:
            raise DeclarationError([f"site={site!r}: the label sites are: {', '.join(labels) or 'none'}."])
        at, found = list(labels).index(site), []
        for c in range(labels[site].classes):
            own = torch.full((num, len(labels)), -1) if y is None else y.expand(num, -1).clone()
            own[:, at] = c
            found.append(self.sample(num, own, seed=seed))
        x, mean, z = (torch.stack(parts, 1) for parts in zip(*found, strict=True))
        return x, mean, z

    def reconstruct(self, batch: Batch, num_draws: int = 1, seed: int | None = None) -> latent.Draws:
        """Draws from the posterior and what they reconstruct, (S, B, ...)."""
        with self.seeded(seed):
            draws = latent.draw_posterior(self.vae, batch, num_draws)
        latent.check_finite([values.movedim(0, 1) for values in (*draws.z.values(), draws.x_mean, draws.log_q)])
        x_mean, x = (latent.pasted(x, batch.x, self.data.shown) for x in (draws.x_mean, draws.x))
        return draws._replace(x_mean=x_mean, x=x)

    def posterior(
        self, num_draws: int = 1000, observations: Iterable[int] = range(16), split: str = "test", save: bool = True
    ) -> "xarray.DataTree":
        """Draws of the guide as an ArviZ DataTree, also written to posterior.nc.

        Args:
            num_draws: S, per observation.
            observations: indices into the split.
            split: which data.
            save: whether to write posterior.nc.
        """
        chosen = list(observations)
        batch = self.batch(split, chosen)
        with self.seeded():
            tree, _ = posterior_draws(
                self.vae, batch, getattr(self.data, split), chosen, num_draws, attributes(self.experiment, split)
            )
        if save:
            inference_data.save(tree, self.directory / "posterior.nc")
        return tree

    @contextmanager
    def seeded(self, seed: int | None = None) -> Iterator[None]:
        """A random state of its own: the same call gives the same draws, and the caller's state stays."""
        with same_random_state(self.device):
            torch.manual_seed(self.experiment.seed if seed is None else seed)
            yield

    def report(self, path: Path | str | None = None) -> pages.Page:
        """Everything of the run in one HTML file that needs no network; a notebook shows it.

        The diagnosis is in it where `pyro_vae.diagnose` has made one.

        Args:
            path: the file to write, DIR/report.html by default.
        """
        return pages.page(pages.gather(self)).written(Path(path or self.directory / "report.html"))


def explore(run: Run) -> pages.Page:
    """Drag a point through the latent space of a run and see what it decodes to, in a notebook.

    Example:
        >>> import pyro_vae as pv
        >>> pv.explore(pv.load("runs/digits-20260101-120000"))                  # doctest: +SKIP
    """
    return pages.explore(pages.shown(run, pages.FEW_DATA))


def load(directory: Path | str, data: Arrays | None = None) -> Run:
    """Open a run directory; `data` are the arrays of a run that was trained on data in memory."""
    return Run(directory, data)
