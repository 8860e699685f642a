"""The network of `conv-2d` in Keras 3, trained an epoch at a time; started by `conv_2d_speed.py`.

    python analysis/benchmarks/keras_conv_2d.py IMAGES.npy BATCH_SIZE LEARNING_RATE

Reads uint8 images (N, 28, 28). For every line on stdin it trains one epoch and prints {"seconds", "criterion"}.
Needs keras and a backend, and nothing of pyro_vae: the extra `bench`, or an environment of its own.
"""

import json
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers, ops

BETA = 0.392 / 784


class Sampling(layers.Layer):
    """z = mu + exp(s / 2) eps, with beta KL(q || p) per pixel added to the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.seed = keras.random.SeedGenerator(0)

    def call(self, moments):
        mu, s = moments
        self.add_loss(BETA * ops.mean(ops.sum(0.5 * (ops.square(mu) + ops.exp(s) - 1 - s), -1)))
        return mu + ops.exp(0.5 * s) * keras.random.normal(ops.shape(mu), seed=self.seed)


def network() -> keras.Model:
    """Encoder 32-64-64 and dense 32, two latent dimensions, the decoder back; Keras' own initial weights."""

    def conv(channels: int, stride: int = 1) -> layers.Layer:
        return layers.Conv2D(channels, 3, strides=stride, padding="same", activation="relu")

    x = image = keras.Input((28, 28, 1))
    for layer in (conv(32), conv(64, 2), conv(64), layers.Flatten(), layers.Dense(32, activation="relu")):
        x = layer(x)
    x = Sampling()([layers.Dense(2)(x), layers.Dense(2)(x)])
    up = layers.Conv2DTranspose(32, 3, strides=2, padding="same", activation="relu")
    back = layers.Dense(32, activation="relu"), layers.Dense(14 * 14 * 64, activation="relu")
    for layer in (*back, layers.Reshape((14, 14, 64)), up, layers.Conv2D(1, 3, padding="same", activation="sigmoid")):
        x = layer(x)
    return keras.Model(image, x)


def main() -> None:
    images, batch_size, rate = np.load(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    x = (images[..., None] / 255).astype("float32")
    model = network()
    model.compile(optimizer=keras.optimizers.Adam(rate), loss="binary_crossentropy")
    about = {"keras": keras.__version__, "backend": keras.backend.backend(), "parameters": model.count_params()}
    print(json.dumps(about), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        history = model.fit(x, x, batch_size=batch_size, epochs=1, verbose=0)
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "criterion": float(history.history["loss"][0])}), flush=True)


if __name__ == "__main__":
    main()
