"""One program per way of collecting activations; `benchmarks.collect` starts them.

Each is run by its path under the interpreter that has its library, which has no affectome; so all but `ours` import
nothing but the standard library, numpy, torch and their library. They are not named after the libraries, as a
program's own folder comes first where Python looks for modules.
"""
