"""The data plane: shards in object storage -> a LanceDB table. No torch here."""

import os

# Lance warns on standard error of every table that it makes; read when it is first imported.
os.environ.setdefault("LANCE_LOG", "error")
# Ray starts a cluster of its own accord when it is asked after the end, as a stream's thread may.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
