"""All uses of transformers' internals, which may change without notice.

    calls       arguments that `generate` passes on, and the inputs of one pass; the name of the cache argument
    settings    complete generation settings, which `generate` does not change
    caches      layers of a cache: joined, copied, cut
    attention   SDPA, its mask, and how to set the attention function of a decoder
    outputs     outputs of parts of a model: tensors in `ModelOutput`s, lists and tuples
    pictures    how some models pack the tiles of a picture
    versions    versions of transformers that were tested

The rest of mmhall imports only what transformers documents, from the top of that package. Importing this package checks
the version. `make compat` runs the tests on the oldest and the newest version.
"""

from mmhall._transformers.versions import check_version

check_version()
