"""Is the posterior any good? Each question about a trained VAE, one file.

    importance      can importance sampling with the guide be trusted, datum by datum; log p(x)
    reference       what is the posterior really: Hamiltonian Monte Carlo of the model alone
    bounds          what is log p(x) without the guide: annealing, from below and from above
    suboptimality   how much does the guide lose, to its family and to amortisation
    calibration     is the guide the posterior of its own model, for data from the model
    aggregate       is q(z) the prior, and what does z know of x
    replication     do data that the model makes look like the data

The statistics behind them, of arrays alone, are in `diagnostics`. `pyro_vae.diagnose` asks all of them at once.
"""

from pyro_vae.diagnosis.aggregate import aggregate_posterior
from pyro_vae.diagnosis.bounds import annealed_log_likelihood, bidirectional
from pyro_vae.diagnosis.calibration import calibrate
from pyro_vae.diagnosis.importance import importance_weights
from pyro_vae.diagnosis.reference import reference_posterior
from pyro_vae.diagnosis.replication import check_predictive
from pyro_vae.diagnosis.simulation import simulate
from pyro_vae.diagnosis.suboptimality import inference_gaps

__all__ = [
    "aggregate_posterior",
    "annealed_log_likelihood",
    "bidirectional",
    "calibrate",
    "check_predictive",
    "importance_weights",
    "inference_gaps",
    "reference_posterior",
    "simulate",
]
