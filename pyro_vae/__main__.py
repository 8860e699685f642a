"""`python -m pyro_vae` is `pyro-vae`."""

from pyro_vae.cli import main

main()
