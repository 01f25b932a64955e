"""Outside methods: each runs in its own installation and writes samples of a manifest (docs/evaluation.md).

    python -m flow3r.eval.methods.runners.dust3r --manifest M.jsonl --root DATA --out OUT --weights W

Nothing of theirs is part of flow3r. Each module names the files in which their interfaces were read.
"""
