"""All that mmhall uses of transformers without a promise that it stays.

    calls       what `generate` hands over, and the inputs of one pass; the name of the cache argument
    settings    generation settings that `generate` fills with nothing
    caches      the layers of a cache: joined, copied, cut
    attention   SDPA, its mask, and how a decoder is told to attend
    pictures    how some models pack the tiles of a picture
    versions    which versions this was tested with

The rest of mmhall imports what transformers documents, from the top of that package. Importing this package checks the
version. `make compat` runs the tests on the oldest and the newest one.
"""

from mmhall._transformers.versions import check_version

check_version()
