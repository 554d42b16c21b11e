"""bridgelake: image-caption shards in, a searchable LanceDB table out.

from bridgelake import Lake

lake = Lake("s3://bucket/lake", model="BridgeTower/bridgetower-large-itm-mlm-itc")
lake.embed("s3://bucket/laion/*.tar")
lake.search("two cats on a couch", limit=10)

Importing it also registers the embedding function `bridgetower` with LanceDB; see `bridgelake.plugins`.
"""

from bridgelake.lake import DEFAULT_MODEL, Lake
from bridgelake.plugins import ITMReranker
from model.errors import ModelError
from pipeline.errors import BridgelakeError

__all__ = ["DEFAULT_MODEL", "BridgelakeError", "ITMReranker", "Lake", "ModelError"]
