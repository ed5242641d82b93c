"""Imported once by the fork server, so that each rank of a test starts in milliseconds."""

import logging
import os
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch
    import torch._dynamo


torch.set_num_threads(1)
