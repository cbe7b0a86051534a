"""A tiny model that takes as much time and memory as the environment says, for jobs that are to be interrupted.

Its code comes with its weights, as that of models on the hub may, so that nothing of the workflow knows of it.
"""

import json
from pathlib import Path

_CODE = """
import os
import time

from transformers import LlamaForCausalLM


class SlowLlama(LlamaForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        self.ballast = b"x" * (int(os.environ.get("TEST_BALLAST_MB", "0")) * 2**20)
        self.model.layers[0].register_forward_pre_hook(
            lambda *_: time.sleep(float(os.environ.get("TEST_PAUSE_S", "0")))
        )
"""


def slow_down(weights: Path) -> None:
    """Make the Llama in the folder `weights` sleep `TEST_PAUSE_S` in every pass and hold `TEST_BALLAST_MB`."""
    (weights / "modeling_slow.py").write_text(_CODE)
    config = json.loads((weights / "config.json").read_text())
    config |= {"architectures": ["SlowLlama"], "auto_map": {"AutoModelForCausalLM": "modeling_slow.SlowLlama"}}
    (weights / "config.json").write_text(json.dumps(config))
