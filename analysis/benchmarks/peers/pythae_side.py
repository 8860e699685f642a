"""pythae's BaseTrainer: its own loop over a loader of batches, which are resident and binarised in the step.

Its default loader collates datum by datum in Python; here it is given batches, which is faster. No progress bar,
evaluation or checkpoint is timed.
"""

import logging
import os
import tempfile
from collections.abc import Iterator

import torch
from peers.by_hand import sequence
from peers.worker import BETAS, EPS, RATE, Job, Run, batches, serve
from torch import Tensor


class Loader:
    """So many batches; what the trainer asks of a DataLoader."""

    def __init__(self, data: Tensor, batch: int) -> None:
        self.dataset, self.batch, self.steps = data, batch, 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        draw = lambda n: torch.randperm(n, device=self.dataset.device)
        for indices in batches(len(self.dataset), self.batch, self.steps, draw):
            p = self.dataset.index_select(0, indices).to(torch.float32) / 255
            yield {"data": (torch.rand_like(p) < p).to(torch.float32)}


def build(job: Job) -> tuple[Run, dict]:
    from importlib.metadata import version

    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import CallbackHandler, TrainingCallback

    logging.disable(logging.INFO)
    torch.set_num_threads(job.threads)
    setting, start = job.setting, job.weights()

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = sequence(setting.encoder, start[0])

        def forward(self, x: Tensor) -> ModelOutput:
            mu, log_variance = self.layers(x).chunk(2, -1)
            return ModelOutput(embedding=mu, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = sequence(setting.decoder, start[1])

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.layers(z).sigmoid())

    sizes = setting.sizes
    model = VAE(VAEConfig(input_dim=(sizes[0],), latent_dim=sizes[-1], reconstruction_loss="bce"), Encoder(), Decoder())
    config = BaseTrainerConfig(
        output_dir=os.path.join(tempfile.gettempdir(), "unused"),
        learning_rate=RATE,
        per_device_train_batch_size=setting.batch,
        optimizer_cls="Adam",
        optimizer_params={"betas": BETAS, "eps": EPS},
        no_cuda=job.device == "cpu",
    )
    some = torch.zeros(setting.batch, sizes[0])
    trainer = BaseTrainer(model, BaseDataset(some, some[:, 0]), training_config=config)
    trainer.callback_handler = CallbackHandler([TrainingCallback()], model)
    trainer.set_optimizer()
    torch.manual_seed(1)
    trainer.train_loader = loader = Loader(torch.from_numpy(job.images()).to(job.device), setting.batch)

    def run(steps: int) -> float:
        loader.steps = steps
        return float(trainer.train_step(1))

    return run, {"versions": {"pythae": version("pythae"), "torch": torch.__version__}}


if __name__ == "__main__":
    serve(build)
