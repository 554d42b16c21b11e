"""The data plane: shards in object storage -> a LanceDB table. No torch here."""

import os

# Lance warns on standard error of every table that it makes; read when it is first imported.
os.environ.setdefault("LANCE_LOG", "error")
# Ray starts a cluster of its own accord when it is asked after the end, as a stream's thread may.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
# Ray waits seven minutes for a call to a host whose network is gone, and a run with it; read when Ray is first
# imported. Its servers take a ping a minute, and cut off who pings more often.
os.environ.setdefault("RAY_grpc_client_keepalive_time_ms", "75000")
os.environ.setdefault("RAY_grpc_client_keepalive_timeout_ms", "30000")
