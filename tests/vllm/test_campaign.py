"""A writing job against the real vLLM, of whose requests a third meets trouble on the way.

200 texts; `AFFECTOME_CAMPAIGN=2000` asks for as many as the campaigns against fakes (tests/unit/test_campaign.py) do.
"""

import os
from collections import Counter

import httpx2
import pytest

from affectome.config import Screening
from affectome.corpus.planning import read_plan
from affectome.corpus.tables import read_corpus
from tests.fakes import ON_THE_WAY, Relay, serving
from tests.unit.test_campaign import EMOTIONS, Campaign, Service
from tests.vllm.test_vllm import WHY_NOT

pytestmark = [pytest.mark.vllm, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]

TEXTS = int(os.environ.get("AFFECTOME_CAMPAIGN", "200"))
PROMPT = "Write one sentence in which somebody is {{ emotion }}. It is about this: {{ topic }}.\n"

# One sentence may break off or say the word; what counts here is that each is there once.
RULES = {"leaks": False, "preambles": False, "refusals": False, "layout": False, "loops": False, "truncated": False}
RULES |= {"near_duplicates": None, "language": None, "min_words": 1}


def test_a_corpus_by_the_real_engine_is_whole_for_all_trouble(tmp_path, served):
    (tmp_path / "story.j2").write_text(PROMPT)

    def ask(body):
        # Anything beyond a sentence or two is of no use here.
        answer = httpx2.post(
            f"{served.base_url}/chat/completions",
            json={**body, "model": served.model, "max_tokens": 48},
            headers={"Authorization": f"Bearer {served.key}"},
            timeout=600,
            trust_env=False,
        )
        answer.raise_for_status()
        reply = answer.json()
        # Cut by the limit above, which is ours and not the writer's.
        reply["choices"][0]["finish_reason"] = "stop"
        return reply

    rules = {**Screening().model_dump(), **RULES}
    with serving(Relay(ask, trouble=0.3 * 11 / 7, seed=7, hang=30.0)) as relay:
        campaign = Campaign(
            tmp_path / "corpus",
            Service("openai", relay.server_address[1]),
            TEXTS // (4 * len(EMOTIONS)),
            prompts={"story": str(tmp_path / "story.j2")},
            rules=rules,
            concurrency=64,
            timeout=25.0,
        )
        campaign.run()
    assert len(read_plan(campaign.plan, False, 0)) == TEXTS
    corpus = read_corpus(campaign.output)
    written = campaign.account()
    # Texts that repeat one another word for word are asked for again until they do not, or given up and counted.
    assert len(corpus) + sum(sum(each.values()) for each in written["given_up"].values()) == TEXTS
    assert len(corpus) > 0.95 * TEXTS
    assert corpus["id"].is_unique
    campaign.check_no_key()
    # What was answered was never asked for again; what was not, was, until it was.
    assert set(Counter(relay.usable).values()) == {1}
    assert relay.asked.keys() == relay.usable.keys()
    assert sum(relay.troubles.values()) > 0.2 * relay.asked.total()
    assert all(relay.troubles[trouble] for trouble in ON_THE_WAY)
    served.check()
