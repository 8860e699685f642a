"""The step of `pyro_vae.train`, from its own trainer: `compiled`, `recorded` (uncompiled), `bfloat16` (compiled)."""

import tempfile
from pathlib import Path

import torch
from peers.experiments import loaded
from peers.worker import Job, Missing, Run, serve

from pyro_vae.capture import unvalidated
from pyro_vae.planning import choose_threads, threads
from pyro_vae.records import versions
from pyro_vae.training import Trainer


def fast_bfloat16(device: str) -> bool:
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def build(job: Job) -> tuple[Run, dict]:
    torch.set_num_threads(job.threads)
    if job.mode == "bfloat16" and not fast_bfloat16(job.device):
        raise Missing("this device has no instructions for bfloat16")
    precision = "bfloat16" if job.mode == "bfloat16" else "float32"
    experiment, data, vae = loaded(job.setting, job.images(), job.device, precision)
    folder = Path(tempfile.mkdtemp())  # of a run: nothing is written to it
    trainer = Trainer(experiment, data, vae, folder, compiled=job.mode != "recorded", quiet=True)
    folder.rmdir()
    number = choose_threads(experiment, vae)
    plan, epoch = trainer.plan(0), 0

    def run(steps: int) -> float:
        nonlocal plan, epoch
        state = trainer.state
        state.totals.zero_()
        left = trainer.steps_per_epoch - int(state.position)
        with torch.no_grad(), unvalidated(), threads(number):
            for _ in range(steps):
                if left == 0:
                    epoch, left = epoch + 1, trainer.steps_per_epoch
                    plan = trainer.plan(epoch)
                    state.position.zero_()
                trainer.step(state, plan, trainer.train_data)
                left -= 1
        count, loss, *_ = state.totals.tolist()
        return loss / count

    return run, {"versions": versions(), "note": f"{number} threads"}


if __name__ == "__main__":
    serve(build)
