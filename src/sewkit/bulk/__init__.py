"""Archives: every recording of a folder, manifest or object store transcribed once, on one machine or a Ray cluster.

    recordings -> lots -> [ read -> decode -> transcribe ] -> shards

`listing` names the recordings and cuts them into lots and shards, the same way every time; `stages` turns a lot into
rows; an engine (`local`: processes of one machine, `cluster`: Ray Data) runs the stages and brings the rows home;
`shards` writes a shard when its last lot has come. `controller` chooses the operating point under a budget, `refine`
spends what is left, `job` ties them together.
"""

from sewkit.bulk.shards import read_rows

__all__ = ["read_rows"]
