"""Imported once by the fork server, so that each rank of a test starts in milliseconds."""

import importlib
import logging
import os
import warnings

# Asks the driver's library for GPUs and not CUDA, which ranks that are forked afterwards could then not use.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # as `dist-dash train` sets it before torch is imported
logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = importlib.import_module("torch")
    gpu = torch.cuda.is_available()
    # Settles on a device when it is imported: where there is a GPU, each rank imports it itself.
    settling = (
        "deepspeed",
        "deepspeed.runtime.zero.muon.muon_optimizer",
        "deepspeed.runtime.zero.stage_1_and_2",
    )
    if not gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # By name: an unused import is what a linter removes, and every rank of every test would then take seconds longer.
    for name in (
        *(() if gpu else settling),
        "sklearn.datasets",
        "sklearn.datasets.data",
        "torch._dynamo",  # the first step of any optimizer imports it
        "torch._inductor.compile_fx",  # every ZeRO stage above 0 imports it: two seconds of a rank's processor time
        "torch.utils.serialization",
        "attrs",
        "docstring_parser",
        "rich._emoji_codes",
        "dist_dash.commands.cli",
        "dist_dash.ensembles.predict_file",
        "dist_dash.training.train",
    ):
        importlib.import_module(name)

torch.set_num_threads(1)
