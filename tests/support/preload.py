"""Imported once by the fork server, so that each rank of a test starts in milliseconds."""

import logging
import os
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import deepspeed  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import torch
    import torch._dynamo  # noqa: F401

import dist_dash.cli
import dist_dash.commands
import dist_dash.train  # noqa: F401

torch.set_num_threads(1)
