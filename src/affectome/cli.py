"""The command `affectome`: serving a run's vectors, and what people who were handed results need, without Snakemake.

`affectome serve --run demo`; also `python -m affectome serve …`. The workflow itself is run with `snakemake`.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any

from affectome.errors import UserError
from affectome.terminal import printable

_ABOUT = """\
Tools for results of the affectome workflow. The workflow itself is run with `snakemake` in its folder; there,
`snakemake bundle` packs every selected run into results/RUN/bundle.zip.
"""
_SERVE = """\
Serves the model of a run as OpenAI's API does, with every request steered as it asks, and a dashboard at /.

A request is steered by one more field beside those that clients know:

  "steering": [{"emotion": "calm", "strength": 0.05}]

A strength is a fraction of the mean residual norm of the layer. GET /v1/emotions lists emotions, layers and the safe
range of each; /docs describes every field. Nobody but this machine can ask, unless AFFECTOME_API_KEY holds a key that
clients have to send.
"""
_SERVE_EXAMPLES = """\
examples:
  affectome serve --run demo
  affectome serve --vectors vectors.safetensors --model path/to/weights --backend transformers
  AFFECTOME_API_KEY=$(openssl rand -hex 16) affectome serve --run demo --host 0.0.0.0

  curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' -d '{"model": "smollm2-135m",
    "messages": [{"role": "user", "content": "How do you feel?"}], "steering": [{"emotion": "calm", "strength": 0.05}]}'
"""
_CHAT = """\
A conversation in the terminal, whose steering is changed between turns: /steer calm 0.05, /compare, /colour calm;
/help lists all commands. Talks to a running server, or with --run loads the model itself.
"""
_CHAT_EXAMPLES = """\
examples:
  affectome chat                                  # with the server at http://127.0.0.1:8000
  affectome chat --url https://gpu-node:8000      # the key is taken from AFFECTOME_API_KEY
  affectome chat --run demo                       # without a server
"""
_TEST = """\
Looks at vectors without a model: layers, emotions, counts, reliability, norms, vectors that are zero, not finite or
nearly the same; with --model, whether they fit the model in a folder. Reads what `affectome convert` reads, the folder
of a run, and bundles. Exit status 1 where something is wrong.
"""
_TEST_EXAMPLES = """\
examples:
  affectome test results/demo
  affectome test vectors.safetensors --model resources/models/smollm2-135m
  affectome test their_vectors.gguf --json | jq .problems
"""
_TEST_HTTP = """\
Tries a running server: one greedy reply along every emotion beside the same unsteered (= marks those that are equal),
and whether strong steering acts, none does not, and mistakes are refused. Exit status 1 where something is wrong.
"""
_TEST_HTTP_EXAMPLES = """\
examples:
  affectome test-http
  affectome test-http --url http://127.0.0.1:8000 --prompt "What just happened?"
"""
_CONVERT = """\
Carries steering vectors over from one tool's form to another's. What is read is known by its content; what a form
cannot hold is said.
"""
_CONVERT_EXAMPLES = """\
examples:
  affectome convert results/demo/vectors/vectors.safetensors control/ --format gguf     # llama.cpp, repeng
  affectome convert bundle/ vectors.safetensors                                        # from emotion-steering
"""
_COMPLETION = """\
Prints what makes the Tab key complete this command in a shell.
"""
_COMPLETION_EXAMPLES = """\
examples:
  affectome completion bash > ~/.local/share/bash-completion/completions/affectome
  affectome completion zsh > ~/.zfunc/_affectome            # in a folder of $fpath
"""
_VERIFY = """\
Checks a bundle (results/RUN/bundle.zip) without unpacking it: that every file is there and unchanged, that nothing was
added, that no name leads out of the folder it is unpacked to, and that vectors, summary, manifest and configuration
agree. Nothing in the bundle is executed, and no network is used.

Prints what the bundle is, and ends with exit status 0; or a line for every problem, with status 1. The checksums in a
bundle show damage, not deceit: whoever changes a file can change them too. To know that you have what its maker made,
compare the SHA-256 that is printed with one that you have from its maker.
"""
_VERIFY_EXAMPLES = """\
examples:
  affectome verify bundle.zip
  affectome verify bundle.zip --json | jq .bundle.findings
"""
_URL = "http://127.0.0.1:8000"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments`, those of this process by default; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except UserError as error:
        sys.stderr.write(f"affectome {options.name}: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="affectome", description=_ABOUT, formatter_class=plain)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="name", required=True)

    def command(name: str, run: Any, short: str, long: str, examples: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=short, description=long, epilog=examples, formatter_class=plain)
        added.set_defaults(command=run)
        return added

    serving = command("serve", _serve, "serve a run's model, steered", _SERVE, _SERVE_EXAMPLES)
    _what_to_serve(serving, required=True)
    serving.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16", "float16"],
        default="auto",
        help="precision; auto is the model's own on a GPU and float32 on a CPU, where replies then do not depend on "
        "what else is asked (on GPUs vLLM has VLLM_BATCH_INVARIANT=1 for that)",
    )
    serving.add_argument("--backend", choices=["vllm", "transformers"], help="by default vllm where it is installed")
    serving.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; others than this machine's need a key"
    )
    serving.add_argument("--port", type=int, default=8000, help="by default %(default)s; 0 takes a free one")
    serving.add_argument("--gpus", type=int, default=None, metavar="N", help="GPUs to use; by default all there are")
    serving.add_argument(
        "--max-model-len", type=int, default=2048, metavar="N", help="vLLM: tokens of prompt and reply together"
    )
    serving.add_argument("--max-tokens", type=int, default=1024, metavar="N", help="most tokens that a reply may have")
    serving.add_argument("--concurrency", type=int, default=64, metavar="N", help="replies written at the same time")
    serving.add_argument("--queue", type=int, default=128, metavar="N", help="requests that may wait; others get a 429")
    serving.add_argument("--timeout", type=float, default=300.0, metavar="S", help="seconds that a reply may take")

    chatting = command("chat", _chat, "talk with a steered model in the terminal", _CHAT, _CHAT_EXAMPLES)
    chatting.add_argument("--url", default=_URL, help="the server's, by default %(default)s")
    _what_to_serve(chatting, required=False)

    testing = command("test", _test, "look at a file of vectors", _TEST, _TEST_EXAMPLES)
    testing.add_argument("vectors", metavar="VECTORS", help="a file or folder of vectors, or a run's folder")
    testing.add_argument("--model", metavar="FOLDER", help="the weights that they are to fit")
    testing.add_argument("--json", action="store_true", help="print one JSON object instead of lines")

    smoke = command("test-http", _test_http, "try every emotion of a server", _TEST_HTTP, _TEST_HTTP_EXAMPLES)
    smoke.add_argument("--url", default=_URL, help="the server's, by default %(default)s")
    smoke.add_argument("--prompt", help="what to ask")
    smoke.add_argument("--max-tokens", type=int, default=24, metavar="N", help="tokens of each reply")

    converting = command("convert", _convert, "vectors from and for other tools", _CONVERT, _CONVERT_EXAMPLES)
    converting.add_argument("source", metavar="SOURCE", help="a file or folder of vectors")
    converting.add_argument("target", metavar="TARGET", help="what to write")
    forms = ["safetensors", "gguf", "steering-vectors", "emotion-steering"]
    converting.add_argument("--format", choices=forms, default="safetensors", help="by default %(default)s, our own")

    verifying = command("verify", _verify, "check a bundle", _VERIFY, _VERIFY_EXAMPLES)
    verifying.add_argument("file", metavar="FILE", help="the bundle, a ZIP archive")
    verifying.add_argument("--json", action="store_true", help="print one JSON object instead of lines")

    completing = command("completion", _completion, "completion for a shell", _COMPLETION, _COMPLETION_EXAMPLES)
    completing.add_argument("shell", choices=["bash", "zsh", "tcsh"])
    return parser


def _what_to_serve(parser: argparse.ArgumentParser, required: bool) -> None:
    chosen = parser.add_mutually_exclusive_group(required=required)
    chosen.add_argument("--run", metavar="RUN", help="a run of the workflow, by name")
    chosen.add_argument("--vectors", metavar="FILE", help="a safetensors file of vectors instead")
    parser.add_argument("--model", metavar="FOLDER", help="with --vectors: the weights they are of")
    parser.add_argument("--results", metavar="FOLDER", default="results", help="with --run: where results are")


def _serve(options: argparse.Namespace) -> int:
    from affectome.serve.command import serve

    serve(options)
    return 0


def _chat(options: argparse.Namespace) -> int:
    from affectome.serve.command import chat

    chat(options)
    return 0


def _test(options: argparse.Namespace) -> int:
    from affectome.vectors.inspect import inspect

    found = inspect(options.vectors, options.model)
    if options.json:
        sys.stdout.write(json.dumps(found.as_dict(), indent=1) + "\n")
    else:
        for line in (*found.lines, *(f"problem: {problem}" for problem in found.problems)):
            _print(line)
    return 1 if found.problems else 0


def _test_http(options: argparse.Namespace) -> int:
    from affectome.serve.smoke import PROMPT, try_server

    trial = asyncio.run(try_server(options.url, options.prompt or PROMPT, options.max_tokens, _print))
    for problem in trial.problems:
        _print(f"problem: {problem}")
    _print(f"{len(trial.replies)} replies, {trial.changed} unlike the baseline, {len(trial.problems)} problems")
    return 1 if trial.problems else 0


def _convert(options: argparse.Namespace) -> int:
    from affectome.vectors.exchange import convert

    convert(options.source, options.target, options.format, _print)
    return 0


def _completion(options: argparse.Namespace) -> int:
    import shtab

    sys.stdout.write(shtab.complete(_parser(), options.shell) + "\n")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from affectome.bundle.verify import verify

    checked = verify(options.file)
    if options.json:
        sys.stdout.write(json.dumps(checked.as_dict(), indent=1) + "\n")
    else:
        for line in checked.problems or _lines(checked.bundle, checked.sha256):
            _print(line)
    return 0 if checked.ok else 1


def _print(line: str) -> None:
    sys.stdout.write(printable(line) + "\n")
    sys.stdout.flush()


def _lines(bundle: dict[str, Any], sha256: str) -> list[str]:
    """What a bundle is, line by line."""
    model, corpus, layers = bundle["model"], bundle["corpus"], bundle["layers"]
    emotions = bundle["emotions"]
    named = ", ".join(emotions[:6]) + (", …" if len(emotions) > 6 else "")
    commit = f", commit {bundle['git_commit']}" if bundle["git_commit"] else ""
    numbers = f"{layers[0]} to {layers[-1]}" if len(layers) > 1 else f"{layers[0]}"
    return [
        f"{bundle['run']}: {bundle['title']}",
        f"  model     {model['name']}, revision {model['revision']}, {model['blocks']} blocks, width {model['width']}",
        f"  corpus    {corpus['name']}, {corpus['stories']:,} stories, {corpus['neutral']:,} neutral texts",
        f"  emotions  {len(emotions)}: {named}",
        f"  layers    {len(layers)}, {numbers}; headline layer {bundle['headline_layer']}",
        *(f"  {line}" for line in bundle["findings"]),
        f"  made      {bundle['made']} by affectome {bundle['affectome']}{commit}",
        f"  sha256    {sha256}",
        f"whole: {bundle['files']} files, {bundle['bytes'] / 1e6:,.1f} MB, no problem found",
    ]
