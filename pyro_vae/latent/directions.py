"""Directions in a latent space, and which codes are near one another; codes (N, D) in, numbers out.

    difference of means    v = E[z | a = 1] - E[z | a = 0], in all of the data or within groups of them
    classifier's normal    v = n n'(E[z | a = 1] - E[z | a = 0]),  n the unit normal of a logistic regression of a on z
    principal axes         eigenvectors of the covariance of the codes, by falling variance

The difference of means carries along what tends to come with an attribute (glasses come with some persons and not with
others, say), unless it is taken within groups that have that in common; the normal of a classifier is the way along
which the attribute is told best. Both move by alpha = 1 as far as the two sides are apart. None depends on the order of
the data.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae.specs import DeclarationError

PAIRS = 2**23
"""Distances that are held at a time: 32 MB in float32."""


def mean_difference(z: Tensor, attribute: Tensor, groups: Tensor | None = None) -> Tensor:
    """From the mean code without an attribute to the mean code with it.

    Args:
        z: codes (N, D).
        attribute: 1 where it is there, 0 where it is not, -1 where unknown (N,).
        groups: a number for each datum (N,), such as whose photograph it is: the mean then is of the differences within
            each group that has both, so that what tells the groups apart is no part of the direction.

    Returns:
        v (D,).

    >>> mean_difference(torch.tensor([[0.0, 1.0], [2.0, 1.0], [9.0, 9.0]]), torch.tensor([0, 1, -1]))
    tensor([2., 0.])
    """
    if groups is not None:
        return _mean_within(z, attribute, groups)
    there, not_there = _sides(z, attribute)
    return (z[there].double().mean(0) - z[not_there].double().mean(0)).to(z.dtype)


def _mean_within(z: Tensor, attribute: Tensor, groups: Tensor) -> Tensor:
    """The mean over groups of the difference within each."""
    there, not_there = _sides(z, attribute)
    if groups.shape != z.shape[:1]:
        raise DeclarationError([f"groups: has shape {tuple(groups.shape)}, and there are {len(z)} codes."])
    members = [groups.to(z.device) == group for group in groups.unique()]
    both = [some for some in members if bool((there & some).any()) and bool((not_there & some).any())]
    if not both:
        raise DeclarationError(["groups: in none of them there are data with the attribute (1) and without it (0)."])
    return torch.stack([mean_difference(z[some], attribute.to(z.device)[some]) for some in both]).mean(0)


def classifier_normal(z: Tensor, attribute: Tensor) -> Tensor:
    """The direction along which a logistic regression tells an attribute, as long as the groups are apart along it.

    Codes are standardised for the regression, whose coefficients have a standard normal prior (scikit-learn's C = 1).

    Args:
        z: codes (N, D).
        attribute: 1, 0, or -1 where unknown (N,).

    Returns:
        v (D,).

    References:
        Interpreting the Latent Space of GANs for Semantic Face Editing (Shen, Gu, Tang & Zhou, 2020).
    """
    from sklearn.linear_model import LogisticRegression

    there, not_there = _sides(z, attribute)
    known = there | not_there
    x = z[known].double().cpu()
    sd = x.std(0).clamp_min(1e-12)
    fitted = LogisticRegression(max_iter=1000, tol=1e-8).fit(((x - x.mean(0)) / sd).numpy(), there[known].cpu().numpy())
    normal = torch.as_tensor(fitted.coef_[0]).double() / sd
    normal = (normal / normal.norm()).to(z)
    return normal * (normal @ mean_difference(z, attribute))


def _sides(z: Tensor, attribute: Tensor) -> tuple[Tensor, Tensor]:
    """Where an attribute is there, and where it is not (N,)."""
    if attribute.shape != z.shape[:1]:
        raise DeclarationError([f"attribute: has shape {tuple(attribute.shape)}, and there are {len(z)} codes."])
    a = attribute.to(z.device)
    there, not_there = a == 1, a == 0
    if not (bool(there.any()) and bool(not_there.any())):
        found = sorted(a.unique().tolist())
        raise DeclarationError([f"attribute: holds {found}; there must be data with it (1) and data without it (0)."])
    return there, not_there


class PrincipalAxes(NamedTuple):
    """Principal component analysis of codes."""

    mean: Tensor
    """(D,)."""
    axes: Tensor
    """Orthonormal directions (num, D), by falling variance; the largest entry of each is positive."""
    sd: Tensor
    """Standard deviation of the codes along each (num,)."""
    explained: Tensor
    """Share of the total variance along each (num,)."""

    def coordinates(self, z: Tensor) -> Tensor:
        """Codes (..., D) along the axes (..., num)."""
        return (z - self.mean) @ self.axes.T


def principal_axes(z: Tensor, num: int | None = None) -> PrincipalAxes:
    """The orthogonal directions along which codes vary most.

    Args:
        z: codes (N, D), at least two.
        num: how many, all by default.
    """
    if len(z) < 2:
        raise DeclarationError([f"codes: are {len(z)}; principal axes take two or more."])
    most = min(len(z) - 1, z.shape[1])
    num = most if num is None else num
    if not 1 <= num <= most:
        raise DeclarationError([f"num={num}: {len(z)} codes of {z.shape[1]} dimensions have 1 to {most} axes."])
    x = z.double()
    mean = x.mean(0)
    _, singular, axes = torch.linalg.svd(x - mean, full_matrices=False)
    signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    variance = singular.square() / (len(z) - 1)
    share = variance / variance.sum().clamp_min(torch.finfo(torch.float64).tiny)
    kept = (mean, (axes * signs)[:num], variance[:num].sqrt(), share[:num])
    return PrincipalAxes(*(part.to(z.dtype) for part in kept))


def per_sd(direction: Tensor, z: Tensor) -> Tensor:
    """A direction as long as one standard deviation of the codes along it: for series mu - 4 s ... mu + 4 s.

    Args:
        direction: v (D,), of any length but 0.
        z: codes (N, D).

    >>> per_sd(torch.tensor([0.0, 5.0]), torch.tensor([[0.0, -1.0], [0.0, 1.0]]))
    tensor([0.0000, 1.4142])
    """
    length = direction.norm()
    if not bool(length > 0):
        raise DeclarationError(["direction: has length 0; there is no way along it."])
    unit = direction / length
    return unit * (z @ unit).std()


def neighbours(z: Tensor, among: Tensor, num: int = 10) -> tuple[Tensor, Tensor]:
    """The nearest codes, by Euclidean distance.

    Args:
        z: codes (B, D).
        among: codes (N, D) to look among.
        num: how many of them.

    Returns:
        Their numbers and their distances (B, num), nearest first.

    >>> neighbours(torch.tensor([[0.0]]), torch.tensor([[3.0], [1.0], [-2.0]]), 2)[0]
    tensor([[1, 2]])
    """
    if not 1 <= num <= len(among):
        raise DeclarationError([f"num={num}: there are {len(among)} codes; take 1 to {len(among)} of them."])
    found = [
        torch.cdist(some, among, compute_mode="donot_use_mm_for_euclid_dist").topk(num, largest=False)
        for some in z.split(max(1, PAIRS // len(among)))
    ]
    return torch.cat([part.indices for part in found]), torch.cat([part.values for part in found])
