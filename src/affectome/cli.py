"""The command `affectome`: what people who were handed results need, without Snakemake.

`affectome verify results/demo/bundle.zip`; also `python -m affectome verify …`. The workflow itself is run with
`snakemake`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

_ABOUT = """\
Tools for results of the affectome workflow. The workflow itself is run with `snakemake` in its folder; there,
`snakemake bundle` packs every selected run into results/RUN/bundle.zip.
"""
_VERIFY = """\
Checks a bundle (results/RUN/bundle.zip) without unpacking it: that every file is there and unchanged, that nothing was
added, that no name leads out of the folder it is unpacked to, and that vectors, summary, manifest and configuration
agree. Nothing in the bundle is executed, and no network is used.

Prints what the bundle is, and ends with exit status 0; or a line for every problem, with status 1. The checksums in a
bundle show damage, not deceit: whoever changes a file can change them too. To know that you have what its maker made,
compare the SHA-256 that is printed with one that you have from its maker.
"""
_EXAMPLES = """\
examples:
  affectome verify bundle.zip
  affectome verify bundle.zip --json | jq .bundle.findings
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments`, those of this process by default; returns the exit status."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="affectome", description=_ABOUT, formatter_class=plain)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    verifying = commands.add_parser(
        "verify", help="check a bundle", description=_VERIFY, epilog=_EXAMPLES, formatter_class=plain
    )
    verifying.add_argument("file", metavar="FILE", help="the bundle, a ZIP archive")
    verifying.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    verifying.set_defaults(command=_verify)
    options = parser.parse_args(arguments)
    return options.command(options)


def _verify(options: argparse.Namespace) -> int:
    from affectome.bundle.verify import verify

    checked = verify(options.file)
    if options.json:
        sys.stdout.write(json.dumps(checked.as_dict(), indent=1) + "\n")
    else:
        for line in checked.problems or _lines(checked.bundle, checked.sha256):
            # What stands in a file from elsewhere must not steer the terminal.
            sys.stdout.write("".join(sign if sign.isprintable() else "?" for sign in line) + "\n")
    return 0 if checked.ok else 1


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
