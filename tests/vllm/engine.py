"""Run with vLLM's own Python: asks engines of vLLM, one after another, what a job says; writes what they replied.

A job is a list of `{"options": of LLM, "ahead": bool, "mutation": name, "rounds": [[request, …], …]}`. Requests of a
round are given to the engine together; each is `{"prompt": ids, "plan": text or null, "tokens": how many, "n": how many
replies}` and may name a finished reply, `"after": [round, request]`, whose prompt and tokens come before its own.
Engines that work `ahead` begin a step before they know the outcome of the last one, as vLLM does on GPUs, and on CPUs
only if made to.
"""

import gc
import json
import os
import socket
import sys
import tempfile
import threading
from pathlib import Path

# What the plugin would do without the part that is named, to see that tests notice.
MUTATIONS = {}


def main(job, output):
    folder = Path(tempfile.mkdtemp())
    os.environ["AFFECTOME_READOUTS"] = str(folder / "readouts")
    received = []
    inlet = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    inlet.bind(os.environ["AFFECTOME_READOUTS"])
    threading.Thread(target=listen, args=(inlet, received), daemon=True).start()
    from affectome.serve import plugin

    MUTATIONS["no salt"] = (plugin, "salts", lambda _text, given: (given, None))
    found = []
    for engine in json.loads(Path(job).read_text()):
        module, name, replacement = MUTATIONS.get(engine.get("mutation"), (plugin, "salts", plugin.salts))
        original = getattr(module, name)
        setattr(module, name, replacement)
        try:
            found.append(run(engine))
        except Exception as error:
            found.append({"error": str(error)})
        setattr(module, name, original)
    Path(output).write_text(json.dumps({"engines": found, "readouts": received}))


def listen(inlet, received):
    while True:
        received.extend(json.loads(inlet.recv(1 << 17)))


def run(engine):
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory
    from vllm.platforms.cpu import CpuPlatform

    check = CpuPlatform.check_and_update_config
    if engine.get("ahead"):
        CpuPlatform.check_and_update_config = staticmethod(lambda config: ahead(check, config))
    llm = LLM(disable_log_stats=False, **engine["options"])
    rounds = []
    for requests in engine["rounds"]:
        prompts = []
        for request in requests:
            before = []
            if "after" in request:
                number, place = request["after"]
                before = rounds[number]["prompts"][place] + rounds[number]["replies"][place]["tokens"]
            prompts.append(before + request["prompt"])
        try:
            results = llm.generate(
                [{"prompt_token_ids": prompt} for prompt in prompts], [sampling(r) for r in requests], use_tqdm=False
            )
        except Exception as error:
            rounds.append({"refused": str(error)})
            continue
        replies = [
            {
                "tokens": list(reply.token_ids),
                "logprobs": [step[token].logprob for step, token in zip(reply.logprobs, reply.token_ids, strict=True)],
                "cached": result.num_cached_tokens,
            }
            for result in results
            for reply in result.outputs
        ]
        rounds.append({"prompts": prompts, "replies": replies, **llm.collective_rpc(state)[0]})
    scheduler = type(llm.llm_engine.engine_core.engine_core.scheduler).__name__
    counts = {metric.name: metric.value for metric in llm.get_metrics() if hasattr(metric, "value")}
    CpuPlatform.check_and_update_config = check
    del llm
    gc.collect()
    cleanup_dist_env_and_memory()
    return {"rounds": rounds, "preemptions": counts["vllm:num_preemptions"], "scheduler": scheduler}


def ahead(check, config):
    check(config)
    config.scheduler_config.async_scheduling = True


def sampling(request):
    from vllm import SamplingParams

    # Several replies are drawn, among which only the likeliest is left.
    several = {"n": request["n"], "temperature": 1.0, "top_k": 1} if "n" in request else {}
    return SamplingParams(
        **({"temperature": 0} | several),
        max_tokens=request["tokens"],
        logprobs=0,
        ignore_eos=True,
        extra_args={"affectome": request["plan"]} if request["plan"] is not None else None,
    )


def state(worker):
    steerer = worker.model_runner.affectome
    left = sum(len(block._forward_hooks) for block in steerer._blocks.values())
    return {"hooked": steerer.hooked, "left": left}


if __name__ == "__main__":
    main(*sys.argv[1:])
