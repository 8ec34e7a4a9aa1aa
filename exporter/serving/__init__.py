"""The same calls over the network: models in folders, served by standard protocols.

`registry` (versions, their coming and going) -> `batcher` (calls joined to batches) -> `core` (one
call, whatever it came by) -> `v2`, `v1` (messages as values, without a network) -> `rest`, `rpc`
(what listens). Ray and other hosts mount what these give.
"""
