"""Imported once by the fork server, so that each rank of a test starts in milliseconds."""

import importlib
import logging
import os
import sys
import warnings
from pathlib import Path

# Not by asking CUDA, which ranks that are forked afterwards could then not use. DeepSpeed settles on a device when it
# is imported: where there is a GPU, each rank imports it itself.
gpu = Path("/dev/nvidiactl").exists()
os.environ.setdefault("OMP_NUM_THREADS", "1")
if not gpu:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # as `dist-dash train` sets it before torch is imported
logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    # By name: an unused import is what a linter removes, and every rank of every test would then take seconds longer.
    for name in (
        "torch",
        *(
            ()
            if gpu
            else ("deepspeed", "deepspeed.runtime.zero.muon.muon_optimizer", "deepspeed.runtime.zero.stage_1_and_2")
        ),
        "sklearn.datasets",
        "sklearn.datasets.data",
        "torch._dynamo",
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

sys.modules["torch"].set_num_threads(1)
