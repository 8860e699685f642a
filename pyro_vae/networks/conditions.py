"""How labels and covariates enter a network: joined to its input, or as what scales and shifts its features."""

from typing import Literal

from torch import Tensor, nn

from pyro_vae.networks.layers import linear
from pyro_vae.networks.spec import Conditioning
from pyro_vae.specs import DeclarationError


class Conditions(nn.Module):
    """(joined, modulating) = (e, None) for `concat`, (None, e) for `film`; e = E [y, given], or [y, given] itself.

    Attributes:
        joined: width of what is joined to the input.
        modulating: width of what scales and shifts the features.
    """

    def __init__(
        self, role: Literal["encoder", "decoder"], width: int, conditioning: Conditioning, embedding: int | None
    ) -> None:
        """Build the embedding, if one is declared.

        Args:
            role: which network this is, for the message.
            width: number of labels (one-hot) and covariates.
            conditioning: how they enter.
            embedding: width of E, or None.

        Raises:
            DeclarationError: there are no labels or covariates.
        """
        super().__init__()
        asked = {"conditioning": conditioning if conditioning == "film" else None, "embedding": embedding}
        if not width and any(asked.values()):
            known = "labels or covariates" if role == "decoder" else "covariates (labels enter after it)"
            raise DeclarationError(
                f"{role}.{field}={value}: this {role} has no {known} that it could be conditioned on; "
                f"leave {field} out, or declare some."
                for field, value in asked.items()
                if value is not None
            )
        self.width = width
        self.embedding = linear(width, embedding, bias=False) if embedding else None
        features = embedding or width
        self.film = conditioning == "film"
        self.joined, self.modulating = (0, features) if self.film else (features, 0)

    def split(self, c: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The latent's part z of c = [z, y, given] (N, inputs), and what `forward` makes of the rest."""
        if not self.width:
            return c, None, None
        z, known = c.split([c.shape[-1] - self.width, self.width], -1)
        return z, *self(known)

    def forward(self, known: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """What is joined to the input and what modulates, (N, joined) and (N, modulating), of known (N, width)."""
        if known is not None and self.embedding is not None:
            known = self.embedding(known)
        return (None, known) if self.film else (known, None)
