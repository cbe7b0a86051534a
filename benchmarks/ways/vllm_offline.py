"""vLLM as a script uses it: everything is handed to `LLM.chat` at once. Runs in vLLM's own environment.

The parent's first line is the job: `model`, `engine` (arguments of `LLM`), `temperature`, `max_tokens`. It is answered
once the model is loaded. Then each line is a list of requests, [prompt, seed] each, and is answered with the seconds
they took and the tokens that were written.
"""

import json
import os
import sys
import time


def main() -> None:
    # vLLM prints to standard output, from C too; what it prints goes to the log instead.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    job = json.loads(sys.stdin.readline())

    from vllm import LLM

    model = LLM(job["model"], **job["engine"])
    answers.write(json.dumps({"ready": True}) + "\n")
    for line in sys.stdin:
        requests = json.loads(line)
        started = time.perf_counter()
        sampling = []
        for _, seed in requests:
            # The model's own manner, as a server has it, but for what the job says.
            own = model.get_default_sampling_params()
            own.temperature, own.max_tokens, own.seed = job["temperature"], job["max_tokens"], seed
            sampling.append(own)
        conversations = [[{"role": "user", "content": prompt}] for prompt, _ in requests]
        replies = model.chat(conversations, sampling, use_tqdm=False)
        seconds = time.perf_counter() - started
        written = sum(len(reply.outputs[0].token_ids) for reply in replies)
        answers.write(json.dumps({"seconds": seconds, "written": written}) + "\n")


# vLLM starts processes that read this file again.
if __name__ == "__main__":
    main()
