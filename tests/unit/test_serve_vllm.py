"""What surrounds vLLM: the plugin's rules, its arithmetic, its datagrams, and what the backend makes of replies.

The plugin in vLLM itself is tested in `tests/vllm/test_steering.py`.
"""

import asyncio
import itertools
import json
import logging
import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from affectome.serve import plugin
from affectome.serve.plan import Change, Readout, encode
from affectome.serve.plugin import salts
from affectome.serve.runner import Steerer, _Outbox, _Request, _Slot, _Steered, steer
from affectome.serve.vllm_backend import _Inbox, cut

LENGTHS = ((1, 2.0),)


def of(*positions, direction=0):
    return encode(tuple(Change(direction, LENGTHS, positions=where) for where in positions))


@pytest.fixture
def directions(tmp_path, monkeypatch):
    path = tmp_path / "directions.safetensors"
    arrays = {f"layer_{layer}": np.eye(3, 8, dtype=np.float32) for layer in (0, 2)}
    save_file(arrays, path, {"residual_norm": json.dumps({0: 4.0, 2: 5.0})})
    monkeypatch.setenv("AFFECTOME_DIRECTIONS", str(path))
    return path


class TestPlugin:
    def test_needs_nothing_but_the_standard_library_and_does_nothing_unasked(self):
        said = "import sys; from affectome.serve import plugin; plugin.register(); print(sorted(sys.modules))"
        environment = {name: value for name, value in os.environ.items() if name != "AFFECTOME_DIRECTIONS"}
        found = subprocess.run(
            [sys.executable, "-c", said], capture_output=True, text=True, check=True, env=environment
        ).stdout
        assert "'affectome.serve.plugin'" in found
        assert not {"'numpy'", "'torch'", "'safetensors'", "'vllm'"} & set(found.strip("[]\n").split(", "))

    def test_knows_what_there_is(self, directions):
        assert plugin.contents(str(directions)) == ({0: (3, 8), 2: (3, 8)}, {0: 4.0, 2: 5.0})

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            (encode((Change(3, ((0, 1.0),)),)), "no direction 3; the last one is 2"),
            (encode((Change(0, ((0, 1.0), (1, 1.0))),)), r"layer 1 has no directions; there are some for \[0, 2\]"),
            (encode((), Readout(2, (1, 7))), "no direction 7"),
            ("[]", "no plan of affectome"),
            (5, "a plan is a string, not int"),
        ],
    )
    def test_refuses_what_it_cannot_follow(self, directions, text, why):
        with pytest.raises(ValueError, match=why):
            plugin.read(text, plugin.contents(str(directions))[0])

    @pytest.mark.parametrize(
        ("place", "name", "value", "why"),
        [
            ("model_config", "enforce_eager", False, "--enforce-eager"),
            ("", "use_v2_model_runner", True, "VLLM_USE_V2_MODEL_RUNNER=0"),
            ("", "speculative_config", {"method": "ngram"}, "--speculative-config"),
            ("parallel_config", "use_ubatching", True, "--enable-dbo"),
            ("cache_config", "kv_sharing_fast_prefill", True, "--kv-sharing-fast-prefill"),
            ("model_config", "is_encoder_decoder", True, "no single residual stream"),
            ("model_config", "get_hidden_size", lambda: 9, "of width 8 for layer 0, but the model is 9 wide"),
        ],
    )
    @pytest.mark.usefixtures("directions")
    def test_refuses_an_engine_that_it_could_not_steer(self, place, name, value, why):
        config = SimpleNamespace(
            use_v2_model_runner=False,
            speculative_config=None,
            model_config=SimpleNamespace(
                enforce_eager=True,
                is_encoder_decoder=False,
                get_hidden_size=lambda: 8,
                hf_text_config=SimpleNamespace(num_hidden_layers=3),
            ),
            parallel_config=SimpleNamespace(use_ubatching=False),
            cache_config=SimpleNamespace(kv_sharing_fast_prefill=False),
        )
        plugin.check(config)
        setattr(getattr(config, place) if place else config, name, value)
        with pytest.raises(ValueError, match=why):
            plugin.check(config)


class TestSalts:
    def test_leave_unsteered_requests_alone(self):
        assert salts(None, "given") == ("given", None)
        assert salts(of(), None) == (None, None)

    def test_are_one_where_prompts_are_treated_alike(self):
        assert salts(of("all"), None) == salts(of("all"), None)
        assert salts(of("all"), None)[0] == salts(of("prompt"), None)[0] == salts(of("prompt", "generated"), None)[0]
        different = [of("all"), of("all", "all"), of("all", direction=1), of("generated")]
        for one, other in itertools.combinations(different, 2):
            assert salts(one, None)[0] != salts(other, None)[0]

    def test_keep_the_clients_own(self):
        assert salts(of("all"), "mine")[0] != salts(of("all"), None)[0]
        assert salts(of("generated"), "mine")[0] == "mine"

    def test_set_generated_tokens_apart_where_prompts_are_treated_otherwise(self):
        assert salts(of("all"), None)[1] is None
        for text in (of("generated"), of("prompt"), of("all", "prompt")):
            roles = {salts(text, None)[1] for _ in range(3)}
            assert len(roles) == 3
            assert None not in roles


class TestSteering:
    def test_is_in_order_and_on_its_rows_alone(self):
        units = torch.eye(2, 4)
        item = _Steered(
            torch.tensor([1, 3]),
            [
                # Add 2 along the first to both, then hold the first at 5 in row 3 alone.
                _Slot(None, torch.tensor([0, 0]), torch.tensor([2.0, 2.0]), None),
                _Slot(torch.tensor([1]), torch.tensor([0]), torch.tensor([5.0]), torch.tensor([-1.0])),
            ],
            [],
        )
        hidden, other = torch.ones(4, 4), torch.full((4, 4), 10.0)
        changed = steer(item, units, hidden, other)
        wanted = torch.ones(4, 4)
        wanted[1, 0] = 3.0
        wanted[3, 0] = 5.0 - 10.0
        torch.testing.assert_close(changed, wanted)
        assert torch.equal(hidden, torch.ones(4, 4))

    def test_rounds_once(self):
        """Two vectors of which each alone is lost beside a residual of bfloat16."""
        slot = _Slot(None, torch.tensor([0]), torch.tensor([0.3]), None)
        item = _Steered(torch.tensor([0]), [slot, slot], [])
        hidden = torch.full((1, 1), 128.0, dtype=torch.bfloat16)
        assert (hidden + 0.3 == hidden).all()
        assert steer(item, torch.ones(1, 1), hidden, None).item() == 129.0

    def test_that_never_happened_is_an_error(self, caplog):
        plan = (Change(0, LENGTHS),)
        with caplog.at_level(logging.ERROR, "vllm.affectome"):
            Steerer._check(None, _Request(plan, None, 3, due=False))
            Steerer._check(None, _Request(plan, None, 3, due=True, steered=1))
            assert not caplog.records
            Steerer._check(None, _Request(plan, None, 3, due=True))
        assert "never steered" in caplog.text


class TestReadouts:
    def test_travel_in_datagrams_of_any_number(self, tmp_path):
        path = str(tmp_path / "s")
        values = torch.arange(4000 * 8).reshape(4000, 8) / 7
        found = {}
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inlet:
            inlet.bind(path)
            outbox = _Outbox(path)
            for start in range(0, 4000, 500):
                outbox.send(values[start : start + 500], [("a", start, 200), ("b", start, 300)])
                inlet.setblocking(False)
                for _ in range(10):
                    try:
                        data = inlet.recv(1 << 17)
                    except BlockingIOError:
                        break
                    assert len(data) < 1 << 16
                    for item in json.loads(data):
                        found |= {(item["id"], item["first"] + n): row for n, row in enumerate(item["values"])}
            outbox._socket.close()
        assert len(found) == 4000
        np.testing.assert_allclose(found["b", 500], values[700], rtol=1e-5)

    def test_are_lost_where_nobody_listens(self, tmp_path, caplog):
        with caplog.at_level(logging.WARNING, "vllm.affectome"):
            _Outbox(str(tmp_path / "nobody")).send(torch.ones(1, 1), [("a", 0, 1)])
        assert "readouts were lost" in caplog.text

    def test_are_given_once_and_never_before_their_tokens(self):
        async def take():
            inbox = _Inbox()
            inbox.put(0, [[0.0], [1.0]])
            inbox.put(1, [[9.0]])
            assert inbox.take() == []
            inbox.tokens = ["a", "b", "c", "d"]
            inbox.put(3, [[3.0]])
            assert inbox.take() == [{"first": 0, "values": [[0.0], [1.0]]}, {"first": 3, "values": [[3.0]]}]
            assert inbox.take() == []
            await inbox.settle(2)

        asyncio.run(take())

    @pytest.mark.parametrize(
        ("text", "choice", "left"),
        [
            ("abc", {"finish_reason": "length"}, ["ab", "c", "d"]),
            ("abc", {"finish_reason": "stop", "stop_reason": None}, ["ab", "c"]),
            ("abc", {"finish_reason": "stop", "stop_reason": 7}, ["ab", "c"]),
            ("a", {"finish_reason": "stop", "stop_reason": "bc"}, ["ab"]),
            ("", {"finish_reason": "stop", "stop_reason": "ab"}, []),
        ],
    )
    def test_are_of_tokens_that_a_reply_shows(self, text, choice, left):
        tokens = ["ab", "c", "d"]
        cut(tokens, text, choice)
        assert tokens == left
