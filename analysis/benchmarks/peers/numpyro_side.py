"""NumPyro's SVI on JAX: `step` jits one update, `loop` a `fori_loop` over them, as NumPyro's example of a VAE does."""

import os

from peers.worker import BETAS, EPS, RATE, Job, Run, batches, serve


def build(job: Job) -> tuple[Run, dict]:
    os.environ["JAX_PLATFORMS"] = "cuda" if job.device.startswith("cuda") else "cpu"
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # other sides need memory too
    import jax
    import jax.numpy as jnp
    import numpy as np
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import SVI, TraceMeanField_ELBO

    jax.config.update("jax_default_matmul_precision", "float32")
    jax.config.update("jax_default_prng_impl", "rbg")  # by far the faster one to binarise with
    setting, start = job.setting, job.weights()
    size, dim, per_epoch = setting.batch, setting.sizes[-1], setting.num_data // setting.batch

    def network(layers: list, h: jax.Array) -> jax.Array:
        *hidden, (weight, bias) = layers
        for w, b in hidden:
            h = jax.nn.relu(h @ w + b)
        return h @ weight + bias

    encoder, decoder = ([(jnp.asarray(w.T), jnp.asarray(b)) for w, b in part] for part in start)

    def model(x: jax.Array) -> None:
        layers = numpyro.param("decoder", decoder)
        with numpyro.plate("data", size):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(dim), 1).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=network(layers, z)).to_event(1), obs=x)

    def guide(x: jax.Array) -> None:
        mu, log_variance = jnp.split(network(numpyro.param("encoder", encoder), x), 2, -1)
        with numpyro.plate("data", size):
            numpyro.sample("z", dist.Normal(mu, jnp.exp(0.5 * log_variance)).to_event(1))

    svi = SVI(model, guide, numpyro.optim.Adam(RATE, *BETAS, EPS), TraceMeanField_ELBO())

    def update(carry: tuple, data: jax.Array, indices: jax.Array) -> tuple:
        state, key, total = carry
        key, own = jax.random.split(key)
        x = jax.random.bernoulli(own, data[indices].astype(jnp.float32) / 255).astype(jnp.float32)
        state, loss = svi.update(state, x)
        return state, key, total + loss

    def loop(carry: tuple, data: jax.Array, order: jax.Array, steps: jax.Array) -> tuple:
        return jax.lax.fori_loop(0, steps, lambda i, c: update(c, data, order[i]), carry)

    one, many = jax.jit(update, donate_argnums=0), jax.jit(loop, donate_argnums=0)
    data = jax.device_put(job.images())
    key, own = jax.random.split(jax.random.key(1))
    carry = svi.init(own, jnp.zeros((size, setting.sizes[0]))), key, jnp.zeros(())
    rng = np.random.default_rng(1)

    def run(steps: int) -> float:
        nonlocal carry
        carry = carry[0], carry[1], jnp.zeros(())
        if job.mode == "step":
            for indices in batches(len(data), size, steps, lambda n: jax.device_put(rng.permutation(n))):
                carry = one(carry, data, indices)
        else:
            for first in range(0, steps, per_epoch):
                order = rng.permutation(len(data))[: per_epoch * size].reshape(per_epoch, size)
                carry = many(carry, data, order, min(per_epoch, steps - first))
        return float(carry[2]) / steps / size

    return run, {"versions": {"numpyro": numpyro.__version__, "jax": jax.__version__}}


if __name__ == "__main__":
    serve(build)
